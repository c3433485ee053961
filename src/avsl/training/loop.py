"""Training: resumable to the step, recorded in MLflow, exported when it ends."""

from __future__ import annotations

import csv
import hashlib
import logging
import sys
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy

from avsl.build import code_hash, make_loader, make_reader, rows_of, steps_per_epoch
from avsl.config.models import Config
from avsl.data.loading import RowLoader, RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.files import whole_file
from avsl.tracking.runs import Recorder
from avsl.training.module import NonFiniteError, SemiModule, TrainingError
from avsl.training.processes import Processes, started, take_over
from avsl.types import Framework, KeepsState

log = logging.getLogger(__name__)


def identity(config: Config, split: Split) -> str:
    """SHA-256 of all that decides a training's result: configuration, split (and so the data), code."""
    parts = "\n".join([config.training_hash(), split.content_hash, code_hash()])
    return hashlib.sha256(parts.encode()).hexdigest()


class Checkpoints(Callback):
    """Writes ``last.ckpt`` atomically every so many steps, never at an epoch's last step: there validation is due.

    Args:
        path: of the checkpoint.
        every: steps between two.
        stamp: what the checkpoint must carry to be continued (identity, MLflow run).
        framework: what is trained; state that it keeps beside the checkpoint is kept in step with it.
        rows: of the prepared data set.

    Attributes:
        written: steps that the checkpoint holds; None where there is none of this training.
    """

    def __init__(self, path: Path, every: int, stamp: dict[str, str], framework: Framework, rows: int) -> None:
        self.written: int | None = None
        self._path = path
        self._every = every
        self._stamp = stamp
        self._kept = framework if isinstance(framework, KeepsState) else None
        self._rows = rows
        self._token: str | None = None
        self._last = 0

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember which state belongs to the checkpoint that is continued."""
        self._token = checkpoint["stamp"]["token"]
        self.written = int(checkpoint["global_step"])

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count from where the training starts; open the framework's state."""
        self._last = trainer.global_step
        if self._kept is None:
            return
        if self._token is None and trainer.is_global_zero:
            # Another training's checkpoint: it must not outlive the state beside it, which is emptied now.
            self._path.unlink(missing_ok=True)
        self._kept.open_state(self._path.with_name("framework"), self._rows, self._stamp["identity"], self._token)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write when due, and never what a step has spoilt.

        Raises:
            NonFiniteError: one has.
        """
        if trainer.global_step - self._last < self._every or trainer.is_last_batch:
            return
        if not isinstance(pl_module, SemiModule):
            raise TypeError("Checkpoints keeps a SemiModule")
        pl_module.check_finite()
        self._last = trainer.global_step
        self._token = uuid.uuid4().hex
        if self._kept is not None:
            self._kept.stage(self._token)
        if trainer.is_global_zero:
            with whole_file(self._path) as part:
                trainer.save_checkpoint(part)
        else:
            # Of several processes the first one writes, and all take part.
            trainer.save_checkpoint(self._path)
        self.written = self._last
        if self._kept is not None:
            self._kept.commit()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stamp it."""
        checkpoint["stamp"] = {**self._stamp, "token": self._token}


class EpochLog(Callback):
    """Records each epoch's metrics and prints a line with the time that is left.

    Its history goes with the checkpoint, so that a resumed training has the curves from the start.
    """

    def __init__(self, run: Recorder) -> None:
        self._run = run
        self._started = 0.0
        self._elapsed = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        """Time spent in training so far, those of interrupted sessions up to their checkpoint included."""
        return self._elapsed + time.perf_counter() - self._started

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the epoch: validation is its last act."""
        if not isinstance(pl_module, SemiModule):
            raise TypeError("EpochLog watches a SemiModule")
        epoch, of = trainer.current_epoch + 1, trainer.max_epochs or 0
        metrics = pl_module.epoch_metrics() | {"train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}
        self.history.append({"epoch": float(epoch), **metrics})
        self._run.log_epoch(metrics, epoch)
        left = self.seconds / epoch * (of - epoch)
        shown = " · ".join(f"{key} {metrics[key]:.3f}" for key in sorted(metrics) if key in _SHOWN)
        log.info("epoch %d/%d · %s · %.0f s, %.0f s left", epoch, of, shown, self.seconds, left)

    def state_dict(self) -> dict[str, Any]:
        """What goes with the checkpoint."""
        return {"history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.history = list(state_dict["history"])
        self._elapsed = float(state_dict["seconds"])


_SHOWN = ("train/loss", "val/ciou", "pseudo/acceptance", "pseudo/iou")


def find_checkpoint(path: Path, wanted: str) -> str | None:
    """The MLflow run of the checkpoint at ``path`` if it belongs to the same configuration, split and code.

    A checkpoint of anything else is left aside and said so: it is never continued.
    """
    if not path.is_file():
        return None
    try:
        stamp = torch.load(path, weights_only=True, mmap=True)["stamp"]
    except Exception as error:  # whatever a damaged file raises: it can only cost time
        log.warning("%s cannot be read (%s): training starts again", path, error)
        return None
    if stamp["identity"] != wanted:
        log.info("%s was made with another configuration, split or code: training starts again", path)
        return None
    log.info("continuing from %s", path)
    return str(stamp["run_id"])


def fit(
    config: Config, data: PreparedData, split: Split, run: Recorder, checkpoint: Path, resume: bool
) -> tuple[SemiModule, EpochLog, RowReader]:
    """Train.

    Args:
        config: what and how.
        data: the prepared set.
        split: whose labels are used.
        run: is told of every epoch.
        checkpoint: where the state is kept.
        resume: whether to go on from it.

    Returns:
        the trained module, the history of its epochs and the reader of training and validation rows.

    Raises:
        TrainingError: another training uses the same state, or a step was not finite; names its rows and the last
            checkpoint.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    devices = config.trainer.devices
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(checkpoint.with_suffix(".lock"), timeout=0))
        except Timeout:
            raise TrainingError(f"another training is using {checkpoint.parent}") from None
        processes = None
        if devices > 1:
            task = {
                "config": config.model_dump(mode="json"),
                "data": str(data.root),
                "split": split.model_dump(mode="json"),
                "run_id": run.run_id,
                "checkpoint": str(checkpoint),
                "resume": resume,
            }
            processes = stack.enter_context(started(task, devices, config.trainer.accelerator))
        return _fit(config, data, split, run, checkpoint, resume, processes)


def take_part() -> None:
    """In a process that `fit` has started for another device: train with the first, which alone records and writes."""
    # The first one says what there is to say.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    processes, task = take_over()
    _fit(
        Config.read(task["config"], ""),
        PreparedData.open(task["data"]),
        Split.model_validate(task["split"]),
        _Bystander(task["run_id"]),
        Path(task["checkpoint"]),
        task["resume"],
        processes,
    )


@dataclass(frozen=True)
class _Bystander:
    """The run as the processes after the first see it: what is to be told, the first one tells."""

    run_id: str

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Leave it to the first."""

    def log_folder(self, path: Path) -> None:
        """Leave it to the first."""


def _fit(
    config: Config,
    data: PreparedData,
    split: Split,
    run: Recorder,
    checkpoint: Path,
    resume: bool,
    processes: Processes | None,
) -> tuple[SemiModule, EpochLog, RowReader]:
    """What `fit` does in each of the processes that train together, or in the only one."""
    rank, count = (0, 1) if processes is None else (processes.global_rank(), processes.world_size())
    validation = rows_of(data, split.validation)
    if len(validation) < count:
        raise TrainingError(f"trainer.devices = {count}: each needs a row of the {len(validation)} for validation")
    rows = np.concatenate([rows_of(data, split.labeled), rows_of(data, split.unlabeled), validation])
    reader = make_reader(config, [config.model.student(k) for k in (0, 1)], data, rows)
    per_epoch = steps_per_epoch(config, split)
    module = SemiModule(config, per_epoch * config.trainer.epochs)
    if rank == 0:
        _warn_of_long_warm_ups(config, module.total_steps)
    loader = make_loader(config, reader, split, module.framework, rank)
    epochs = EpochLog(run)
    stamp = {"identity": identity(config, split), "run_id": run.run_id}
    checkpoints = Checkpoints(checkpoint, config.trainer.checkpoint_every, stamp, module.framework, len(data))
    callbacks: list[Callback] = [epochs, checkpoints]
    watched = sys.stderr.isatty() and rank == 0
    if watched:
        callbacks.append(RichProgressBar())
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=count,
        strategy="auto" if processes is None else DDPStrategy(cluster_environment=processes),
        precision=config.trainer.precision,
        max_epochs=config.trainer.epochs,
        gradient_clip_val=config.trainer.gradient_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=watched,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        # Teachers are meant to be.
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
        # Lightning's own, of no use to anybody who reads this log.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        if processes is not None:
            processes.meet()
        try:
            trainer.fit(
                module,
                loader,
                RowLoader(reader, validation[rank::count], config.evaluate.batch_size),
                ckpt_path=str(checkpoint) if resume else None,
                weights_only=True,
            )
        except NonFiniteError as error:
            ids = ", ".join(data.sample_ids[k] for k in np.concatenate(loader.drawn(error.step)).tolist())
            good = "none yet"
            if checkpoints.written is not None:
                good = f"{checkpoint}, after {checkpoints.written} steps"
            raise TrainingError(
                f"{error} (rows {ids}); last good checkpoint: {good}; trainer.non_finite=skip goes on from there and "
                "leaves such steps out"
            ) from None
    return module, epochs, reader


def _warn_of_long_warm_ups(config: Config, steps: int) -> None:
    """A method whose warm-up outlasts the training is another, simpler method, and its scores do not tell."""
    for axis, choice in (("objective", config.objective), ("framework", config.framework)):
        wait = getattr(choice.settings, "warmup_steps", 0)
        if wait >= steps:
            log.warning(
                "%s.%s.warmup_steps = %d, but the training has %d steps: what begins after them never does",
                axis,
                choice.name,
                wait,
                steps,
            )


def write_history(path: Path, history: Iterable[dict[str, float]]) -> None:
    """Write the epochs' metrics as CSV; a metric that an epoch lacks is left empty."""
    lines = list(history)
    keys = list(dict.fromkeys(key for line in lines for key in line))
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
