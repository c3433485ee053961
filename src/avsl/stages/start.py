"""The start: self-supervised trainings, one for each seed and student, whose weights all frameworks start from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from avsl.config.compose import compose
from avsl.config.models import Choice, Config, ModelSection, StartConfig
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split, SplitConfig, make_split
from avsl.frameworks.self_supervised import SelfSupervised, SelfSupervisedConfig
from avsl.functional.seeds import derive_seed
from avsl.models.start import save_start, start_file
from avsl.paths import Layout
from avsl.stages.seeds import forget_other_seeds, of_every_seed, side_by_side
from avsl.tracking.runs import Unrecorded
from avsl.training.checkpoint import find_checkpoint
from avsl.training.logger import write_history
from avsl.training.loop import check_accelerator, fit_on_all_devices, identity, sole_training

log = logging.getLogger(__name__)

STUDENTS = (0, 1)


def start(overrides: Sequence[str] = ()) -> None:
    """Train the start weights of both students of one seed; existing weights of the same identity are kept."""
    for k in STUDENTS:
        start_student(list(overrides), k)


def start_seeds(overrides: Sequence[str] = ()) -> None:
    """Train the start weights of all seeds of the matrix in parallel; without epochs, leave an empty folder."""
    config = compose(overrides)
    folder = Layout.of(config).start_of_seed.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not config.start.epochs:
        shutil.rmtree(folder)
        folder.mkdir()
        log.info("start.epochs = 0: every training starts from the model's initial weights")
        return
    seeds = of_every_seed(overrides)
    forget_other_seeds(folder, list(seeds))
    tasks = {f"seed {seed} student {k}": (asked, k) for seed, asked in seeds.items() for k in STUDENTS}
    side_by_side("avsl.stages.start:start_student", tasks, config)


def start_student(overrides: Sequence[str], k: int) -> None:
    """Train the start weights of the k-th student of one seed, from its checkpoint if it has one.

    Raises:
        TrainingError: another training uses the same state, or a step was not finite.
    """
    config = compose(overrides)
    layout = Layout.of(config)
    if not config.start.epochs:
        return
    check_accelerator(config.trainer)
    data = PreparedData.open(layout.prepared)
    training, split = training_of(config, k), _all_clips(data)
    wanted, path = identity(training, split), start_file(layout.start_of_seed, k)
    if _identity_of(path) == wanted:
        log.info("%s is kept: settings, data and code are the same", path)
        return
    checkpoint = layout.base / "state" / "start" / f"{layout.objective}-{layout.seed}-{k}" / "last.ckpt"
    with sole_training(checkpoint):
        resume = find_checkpoint(checkpoint, wanted) is not None
        module, epochs, _ = fit_on_all_devices(training, data, split, Unrecorded(), checkpoint, resume)
        assert isinstance(module.framework, SelfSupervised)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_history(path.with_suffix(".csv"), epochs.history)
        save_start(module.framework.student, path, {"identity": wanted})
    shutil.rmtree(checkpoint.parent, ignore_errors=True)


def training_of(config: Config, k: int) -> Config:
    """Return the configuration of the k-th student's self-supervised training, on all clips without labels."""
    model = ModelSection(name=config.model.name, **dict(config.model.student(k)))
    return config.model_copy(
        update={
            "seed": derive_seed(config.seed, 3000, k),
            "split": SplitConfig(label_ratio=1.0, seed=0),
            "model": model,
            "framework": Choice(name="self_supervised", settings=SelfSupervisedConfig()),
            "start": StartConfig(),
            # Trainings start from the last weights, so that an average would be computed for nothing.
            "trainer": config.trainer.model_copy(update={"epochs": config.start.epochs, "average_half_life": 0}),
        }
    )


def _all_clips(data: PreparedData) -> Split:
    """Make a split in which no clip of the training part is labeled."""
    ids = [data.sample_ids[row] for row in data.indices("train").tolist()]
    return make_split(data, SplitConfig(label_ratio=1.0)).model_copy(update={"labeled": [], "unlabeled": ids})


def _identity_of(path: Path) -> str:
    """Read the identity of the training that wrote start weights; empty if the file is missing or unreadable."""
    if not path.is_file():
        return ""
    try:
        with safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("identity", ""))
    except Exception as error:  # a damaged file costs a training
        log.warning("%s cannot be read (%s): it is trained again", path, error)
        return ""
