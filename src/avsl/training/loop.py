"""The training loop: resumable at any step and recorded in MLflow."""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import lightning
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy

from avsl.build import code_hash, make_loader, make_reader, steps_per_epoch
from avsl.config.models import Config, TrainerConfig
from avsl.config.plugins import load_again, loaded_plugins
from avsl.data.loading import RowLoader, RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.frameworks import FRAMEWORKS
from avsl.models.start import start_file
from avsl.schema import ConfigError
from avsl.tracking.runs import Recorder
from avsl.training.checkpoint import StampedCheckpoint
from avsl.training.errors import NonFiniteError, TrainingError
from avsl.training.freezing import TrunkFreezing
from avsl.training.logger import EpochLogger
from avsl.training.module import SemiModule
from avsl.training.nonfinite import NonFiniteGuard
from avsl.training.processes import Processes, started, take_over

log = logging.getLogger(__name__)

# Exit codes of processes that a signal has ended, as in shells.
_SIGINT_CODE, _SIGTERM_CODE = 128 + signal.SIGINT, 128 + signal.SIGTERM


def identity(config: Config, split: Split, start: Path | None = None) -> str:
    """SHA-256 of everything that determines a training's result: configuration, data, split, start weights, code."""
    digest = hashlib.sha256("\n".join([config.training_hash(), split.content_hash, code_hash(config)]).encode())
    if start is not None:
        for path in (start_file(start, k) for k in (0, 1)):
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def fit_on_all_devices(
    config: Config,
    data: PreparedData,
    split: Split,
    run: Recorder,
    checkpoint: Path,
    resume: bool,
    start: Path | None = None,
) -> tuple[SemiModule, EpochLogger, RowReader]:
    """Train.

    Args:
        config: configuration of the training.
        data: the prepared set.
        split: the labeled and unlabeled samples.
        run: records every epoch.
        checkpoint: path of the checkpoint.
        resume: whether to resume from it.
        start: folder of the students' start weights; None for the model's initial weights.

    Returns:
        The trained module, the history of its epochs and the reader of training and validation samples.

    Raises:
        TrainingError: another training uses the checkpoint, or a step was not finite; names its samples and the last
            checkpoint.
    """
    devices = config.trainer.devices
    with ExitStack() as stack:
        stack.enter_context(sole_training(checkpoint))
        processes = None
        if devices > 1:
            task = {
                "config": config.model_dump(mode="json"),
                "data": str(data.root),
                "split": split.model_dump(mode="json"),
                "checkpoint": str(checkpoint),
                "resume": resume,
                "plugins": loaded_plugins(),
                "start": None if start is None else str(start),
            }
            processes = stack.enter_context(started(task, devices, config.trainer.accelerator))
        return _fit_on_one_device(config, data, split, run, checkpoint, resume, start, processes)


@contextmanager
def sole_training(checkpoint: Path) -> Iterator[None]:
    """Lock a checkpoint against other trainings.

    Raises:
        TrainingError: another training is using it.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    # A singleton, so that the same process can acquire the lock again.
    lock = FileLock(checkpoint.with_suffix(".lock"), timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(f"another training is using {checkpoint.parent}") from None
    try:
        yield
    finally:
        lock.release()


def check_accelerator(config: TrainerConfig) -> None:
    """Refuse an accelerator that this machine does not have.

    Raises:
        ConfigError: trainer.accelerator is gpu, and torch finds no GPU.
    """
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("key 'trainer.accelerator' = 'gpu': torch finds no GPU on this machine; cpu is allowed")


def take_part() -> None:
    """Train in a further process that `started` has launched; only the first process records and writes."""
    # The first process logs the messages.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    processes, task = take_over()
    load_again(task["plugins"])
    _fit_on_one_device(
        Config.read(task["config"], ""),
        PreparedData.open(task["data"]),
        Split.model_validate(task["split"]),
        None,
        Path(task["checkpoint"]),
        task["resume"],
        None if task["start"] is None else Path(task["start"]),
        processes,
    )


def _fit_on_one_device(
    config: Config,
    data: PreparedData,
    split: Split,
    run: Recorder | None,
    checkpoint: Path,
    resume: bool,
    start: Path | None,
    processes: Processes | None,
) -> tuple[SemiModule, EpochLogger, RowReader]:
    """Train in one process, alone or with others."""
    rank, count = (0, 1) if processes is None else (processes.global_rank(), processes.world_size())
    validation = data.rows_of(split.validation)
    if 0 < len(validation) < count:
        raise TrainingError(f"trainer.devices = {count}: each needs a row of the {len(validation)} for validation")
    rows = np.concatenate([data.rows_of(split.labeled), data.rows_of(split.unlabeled), validation])
    per_epoch = steps_per_epoch(config, split)
    total_steps = per_epoch * config.trainer.epochs
    check_warm_ups(config, total_steps)
    module = SemiModule(config, total_steps, start)
    reader = make_reader(config, module.modules(), data, rows)
    loader = make_loader(config, reader, split, module.framework, rank)
    settings = config.trainer
    epochs = EpochLogger(run, settings.epochs)
    stamp = {"identity": identity(config, split, start), "run_id": "" if run is None else run.run_id}
    guard = NonFiniteGuard(settings.non_finite, settings.loss_limit)
    checkpoints = StampedCheckpoint(checkpoint, settings.checkpoint_every, settings.checkpoint_every_s, stamp, guard)
    callbacks: list[Callback] = [epochs, guard, checkpoints, _EndOnSigterm()]
    if frozen := settings.in_steps(total_steps).freeze_trunk:
        callbacks.append(TrunkFreezing(int(frozen)))
    watched = sys.stderr.isatty() and rank == 0
    if watched:
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    trainer = lightning.Trainer(
        accelerator=settings.accelerator,
        devices=count,
        strategy="auto" if processes is None else DDPStrategy(cluster_environment=processes),
        precision=settings.precision,
        max_epochs=settings.epochs,
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=callbacks,
        logger=epochs,
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=watched,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        # Teachers are in evaluation mode by design.
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
        # Deprecations inside Lightning.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        if processes is not None:
            processes.meet()
        try:
            trainer.fit(
                module,
                loader,
                RowLoader(reader, validation[rank::count], config.evaluate.batch_size) if len(validation) else None,
                ckpt_path=str(checkpoint) if resume else None,
                weights_only=True,
            )
        except NonFiniteError as error:
            ids = ", ".join(data.sample_ids[k] for k in np.concatenate(loader.row_numbers(error.step)).tolist())
            good = "none yet"
            if checkpoints.written is not None:
                good = f"{checkpoint}, after {checkpoints.written} steps"
            raise TrainingError(
                f"{error} (rows {ids}); last good checkpoint: {good}; trainer.non_finite=skip resumes there and "
                "leaves such steps out"
            ) from None
        except SystemExit as end:
            # Lightning turns Ctrl-C into a SystemExit with code 1.
            code = _SIGTERM_CODE if end.code == _SIGTERM_CODE else _SIGINT_CODE
            kept = "nothing is kept"
            if checkpoints.written is not None:
                kept = f"the same command continues from {checkpoint}, after {checkpoints.written} steps"
            log.warning("training was stopped in step %d; %s", module.step, kept)
            raise SystemExit(code) from None
    return module, epochs, reader


class _EndOnSigterm(Callback):
    """Ends a training at once on SIGTERM; with Lightning's handler it would exit with code 0."""

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Replace Lightning's handler; Lightning restores the previous one after the training."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(_SIGTERM_CODE)


def warm_ups(config: Config, steps: int) -> dict[str, int]:
    """Steps in which the objective and the framework do not work yet, by key, in a training of ``steps``."""
    found = {}
    for axis, choice in (("objective", config.objective), ("framework", config.framework)):
        found[f"{axis}.{choice.name}.warmup_steps"] = getattr(choice.settings.in_steps(steps), "warmup_steps", 0)
    return found


def check_warm_ups(config: Config, steps: int) -> None:
    """Refuse a training that ends before its method starts: it would train another, simpler method.

    Raises:
        TrainingError: names the key, both numbers and the way out.
    """
    for key, wait in warm_ups(config, steps).items():
        if wait >= steps:
            name = key.split(".")[1]
            raise TrainingError(
                f"{key} = {wait}, but the training has {steps} steps: {name} would never start; "
                f"train for longer, or give a share of the training, such as {key}=0.25"
            )


def check_labels(config: Config, split: Split) -> None:
    """Refuse a framework that learns from boxes where no training row has any.

    Raises:
        TrainingError: names the framework and what can be trained.
    """
    framework, _ = FRAMEWORKS[config.framework.name]
    if not split.labeled and getattr(framework, "uses_labels", True):
        raise TrainingError(
            f"framework={config.framework.name} learns from boxes, and no training row of {config.data.name} has any: "
            "framework=self_supervised needs none"
        )
