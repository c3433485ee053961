"""Builds objects from names and settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avsl.config.models import Config
from avsl.config.plugins import plugin_files
from avsl.data.loading import RowReader, StepLoader
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.branch import Branch
from avsl.functional.seeds import derive_seed
from avsl.models import ExportedModel, Localizer, LocalizerEnsemble
from avsl.models.start import load_start, start_file
from avsl.objectives import OBJECTIVES
from avsl.types import Framework


def make_branch(config: Config, k: int, total_steps: int, start: Path | None = None) -> Branch:
    """The k-th student of a training, initialized from its own seed; the global generator is left as it was.

    Args:
        config: the run's configuration.
        k: 0 or 1.
        total_steps: length of the training.
        start: folder of the students' start weights; None for the model's initial weights.

    Raises:
        DataError: the start weights are missing or of another model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, k))
        build, _ = OBJECTIVES[config.objective.name]
        objective = build(config.objective.settings.in_steps(total_steps))
        described = config.model.student(k)
        described = described.model_copy(update={"heads": objective.needs.heads})
        model: Any = Localizer(described)  # torch leaves memory_format out of to()'s type
        if config.trainer.channels_last:
            model = model.to(memory_format=torch.channels_last)
        branch = Branch(model, objective)
        if start is not None:
            load_start(branch, start_file(start, k))
        return branch


def make_framework(config: Config, total_steps: int, start: Path | None = None) -> Framework:
    """The framework over students as :func:`make_branch` makes them."""
    framework, _ = FRAMEWORKS[config.framework.name]
    settings = config.framework.settings.in_steps(total_steps)
    return framework(lambda k: make_branch(config, k, total_steps, start), settings)


def steps_per_epoch(config: Config, split: Split) -> int:
    """Steps in which as many rows are drawn as the training part has, whatever the labeled share."""
    return -(-(len(split.labeled) + len(split.unlabeled)) // config.trainer.batch_size)


def make_reader(config: Config, models: Iterable[nn.Module], data: PreparedData, rows: NDArray[np.int64]) -> RowReader:
    """A reader of ``rows``, with what localizers among ``models`` see and hear in them cached as configured."""
    localizers = [model for model in models if isinstance(model, Localizer)]
    kept = config.model.cache_frozen
    seen = [localizer.frozen_image() if kept else None for localizer in localizers]
    heard = [localizer.frozen_audio() if kept else None for localizer in localizers]
    trained = [localizer for localizer, trunk in zip(localizers, heard, strict=True) if trunk is None]
    # The waveform that one of them needs is there for all.
    cached = config.trainer.cache_features or not trained
    return RowReader(
        data,
        [localizer.audio.front_end for localizer in trained] if cached else [],
        rows,
        # A view has one geometry, so that a trained network gets no crops beside a frozen one without.
        image_trunks=[trunk for trunk in seen if trunk is not None] if None not in seen else [],
        audio_trunks=[trunk for trunk in heard if trunk is not None] if cached else [],
    )


def describe_model(
    model: LocalizerEnsemble, data: PreparedData, threshold: float, presence: float, trained_on: str = ""
) -> ExportedModel:
    """What an export says of a model whose threshold and presence were chosen on ``data``."""
    manifest = data.manifest
    return ExportedModel(
        members=model.configs,
        image_size=manifest.image_size,
        sample_rate=manifest.sample_rate,
        duration_s=manifest.n_samples_audio / manifest.sample_rate,
        threshold=threshold,
        presence=presence,
        trained_on=trained_on,
    )


def make_loader(config: Config, reader: RowReader, split: Split, framework: Framework, rank: int = 0) -> StepLoader:
    """The training loader of a split, for the process ``rank`` of those that train together."""
    labeled = reader.data.rows_of(split.labeled)
    unlabeled = reader.data.rows_of(split.unlabeled if framework.uses_unlabeled else [])
    if not framework.uses_labels:
        # One pool in the data set's order: which of its rows have labels decides nothing.
        labeled, unlabeled = np.sort(np.concatenate([labeled, unlabeled])), unlabeled[:0]
    return StepLoader(
        reader,
        labeled,
        unlabeled,
        batch_size=config.trainer.batch_size,
        labeled_batch_size=config.trainer.labeled_batch_size,
        steps_per_epoch=steps_per_epoch(config, split),
        seed=derive_seed(config.seed, 1000),
        masks=framework.uses_labels,
        hidden=framework.needs_weak_view,
        rank=rank,
        processes=config.trainer.devices,
    )


# What decides a training's result, beside the files of its framework and its objective. The DAG's stage `train` depends
# on the same; tests/pipeline/test_dag.py compares the two.
DECISIVE = (
    "build.py",
    "data/loading.py",
    "data/prepared/format.py",
    "data/prepared/outputs.py",
    "data/prepared/reader.py",
    "data/transforms.py",
    "distributed.py",
    "evaluation",
    "frameworks/branch.py",
    "frameworks/label_memory.py",
    "functional",
    "metrics",
    "models",
    "stages/train.py",
    "training",
    "types.py",
)


def code_hash(config: Config) -> str:
    """SHA-256 of the source that decides a training's result: a training of other code is neither kept nor continued.

    Read once, before a training starts: an edit meanwhile is not what it ran.
    """
    methods = (FRAMEWORKS[config.framework.name][1], OBJECTIVES[config.objective.name][1])
    return _code_hash(tuple(method.__module__ for method in methods))


@cache
def _code_hash(methods: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    found = [
        path
        for name in DECISIVE
        for path in ((folder / name).rglob("*.py") if (folder / name).is_dir() else [folder / name])
    ]
    found += [Path(str(sys.modules[name].__file__)) for name in methods]
    for path in sorted(found):
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name, path in plugin_files().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
