"""A folder of small videos without boxes in a separate project, and an untrained model."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.fixtures.media import WriteMedia, tone

from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported


@pytest.fixture(scope="session")
def twenty_clips(tmp_path_factory: pytest.TempPathFactory, write_media: WriteMedia) -> Path:
    """Ten recordings of two clips each, one second long; every clip has another tone."""
    folder = tmp_path_factory.mktemp("clips")
    for k in range(20):
        path = folder / f"video{'abcdefghij'[k // 2]}_{k % 2}_{k % 2 + 1}.mp4"
        write_media(path, frames=[0, 0.5, 0.9], samples=tone(1, 16000, 200 + 150 * k), rate=16000)
    return folder


@pytest.fixture
def clips(twenty_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The videos, linked into ``CLIPS`` of the working directory, an empty project."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CLIPS").mkdir()
    for path in twenty_clips.iterdir():
        (tmp_path / "CLIPS" / path.name).hardlink_to(path)
    return Path("CLIPS")


@pytest.fixture
def settings(clips: Path) -> list[str]:
    """Overrides under which the ten recordings are 3 for testing, 2 for validation and 5 for training."""
    shares = ["data.folder.test_share=0.3", "data.folder.validation_share=0.3", "data.folder.seed=4"]
    return ["data=folder", f"data.folder.root={clips}", *shares]


@pytest.fixture(scope="session")
def save_model(tiny: LocalizerConfig) -> Callable[[Path, int], Path]:
    """Exports a model of so many random localizers, each near the first one."""

    def save(folder: Path, members: int) -> Path:
        folder.mkdir()
        torch.manual_seed(0)
        stated = ExportedModel(
            members=[tiny] * members, image_size=32, sample_rate=16000, duration_s=0.5, threshold=0.3
        )
        localizers = [Localizer(tiny) for _ in range(members)]
        for k, localizer in enumerate(localizers):
            localizer.load_state_dict(localizers[0].state_dict())
            for weights in localizer.parameters():
                weights.data += k * 0.1 * weights.std(unbiased=False) * torch.randn_like(weights)
        save_exported(folder, LocalizerEnsemble(localizers), stated)
        return folder

    return save


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, str]]]:
    """The rows of a CSV by its header."""

    def read(path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    return read
