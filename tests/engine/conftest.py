"""A project whose data set and networks are tiny: every step takes a moment."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from avsl.config import compose
from avsl.data.shards import PreparedData, Sample, write_manifest, write_shard
from avsl.engine.layout import Layout
from avsl.engine.prepare import prepare, split
from avsl.tracking.runs import open_store

_CONF = Path(__file__).parents[2] / "pipelines" / "conf"
_NETWORK = {"backbone": "resnet10t", "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 8}}
_MODEL = {
    "name": "tiny",
    "dim": 8,
    "image": _NETWORK | {"stages": [1]},
    "audio": _NETWORK | {"front_end": {"hop_length": 320, "n_mels": 32}},
}
# Three steps an epoch, six in all; checkpoints after the second and the fourth, both in mid-epoch. So low a threshold
# that pseudo-labels are given and accepted from the third step on.
_PSEUDO = {"delta": 0.05, "warmup_steps": 2}
_AVERAGE = {"ema_decay": 0.9}
_PARAMS = {
    "data": {
        "name": "synthetic",
        "synthetic": {
            "image_size": 32,
            "duration_s": 0.25,
            **{"n_train": 24, "n_validation": 6, "n_test": 6, "n_duet": 4, "n_offscreen": 3, "n_swap": 5},
            **{"n_small": 0, "n_unheard": 0},
        },
    },
    "split": {"label_ratio": 0.25},
    "model": {"name": "tiny"},
    "objective": {"name": "ezvsl", "ezvsl": {"pooling": "topk", "topk": 4}},
    "framework": {
        "name": "dmt",
        "pseudo_label": _PSEUDO,
        "mean_teacher": _PSEUDO | _AVERAGE,
        "xpl": {"warmup_steps": 1, "pacing": {"start": 0.5, "length": 3}},
        "dmt": _PSEUDO | _AVERAGE | {"tau": 0.0},
    },
    "trainer": {
        "name": "default",
        "epochs": 2,
        "batch_size": 8,
        "labelled_batch_size": 4,
        "checkpoint_every": 2,
        "precision": "32-true",
    },
    "tracking": {"system_metrics": False},
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its data prepared and split and an empty MLflow store; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(_CONF, folder / "pipelines" / "conf")
    (folder / "pipelines" / "conf" / "model" / "tiny.yaml").write_text(yaml.safe_dump(_MODEL))
    (folder / "params.yaml").write_text(yaml.safe_dump(_PARAMS))
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        prepare()
        split()
        config = compose()
        open_store(config.tracking, config.root)
    return folder


@pytest.fixture
def make_project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes another copy of the project."""
    return lambda: Path(shutil.copytree(template, tmp_path_factory.mktemp("copy"), dirs_exist_ok=True))


@pytest.fixture
def project(make_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, as the working directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = make_project()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def layout(project: Path) -> Callable[..., Layout]:
    """Where a configuration's files lie in the project, given as overrides."""
    return lambda *overrides: Layout.of(compose(overrides))


@pytest.fixture(scope="session")
def draw_boxes() -> Callable[[PreparedData, Collection[str], NDArray[np.float32]], None]:
    """Writes the one shard of a prepared set again, with these boxes for some samples, by their ids."""

    def draw(data: PreparedData, ids: Collection[str], boxes: NDArray[np.float32]) -> None:
        rows = np.arange(len(data), dtype=np.int64)
        frames, sounds, masks, meta = data.frames(rows), data.waveforms(rows), data.object_masks(rows), data.meta(rows)
        samples = [
            Sample(
                sample_id=data.sample_ids[k],
                source_id=data.source_ids[k],
                group_id=data.group_ids[k],
                part=data.parts[k],
                label=data.labels[k],
                frame=frames[k],
                waveform=(sounds[k] * 32768).astype(np.int16),
                boxes=boxes if data.sample_ids[k] in ids else data.boxes(k),
                mask=masks[k],
                meta=meta[k],
            )
            for k in rows.tolist()
        ]
        (entry,) = data.manifest.shards
        path = data.root / entry.file
        write_shard(path, samples)
        shards = [entry.model_copy(update={"bytes": path.stat().st_size})]
        write_manifest(data.root, data.manifest.model_copy(update={"shards": shards}))

    return draw
