"""A full disk: one sentence, nothing half-written, and the same command goes on once there is room."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Protocol

import pytest
import torch
from benchmarks.faults.damage import write_model
from tests.fixtures.messages import facts

from avsl.cli import main
from avsl.data.prepared.reader import PreparedData
from avsl.files import PART
from avsl.models import load_exported, save_exported


class _Disk(Protocol):
    folder: Path

    def resize(self, kilobytes: int) -> None: ...

    def fill(self, spare_kilobytes: int) -> None: ...


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last thing that was said on stderr, which must be the command's one sentence."""
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("avsl: ")
    return last


def _half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(PART)]


def test_shards(project: Path, disk: _Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """What was finished is kept; the whole is what it would have been."""
    on_disk = [f"root={disk.folder}"]
    disk.resize(400)
    assert main(["prepare", *on_disk]) == 2
    assert "No space left on device" in _sentence(capsys)
    assert not _half_written(disk.folder)
    prepared = disk.folder / "synthetic" / "prepared"
    assert not (prepared / "manifest.json").exists()
    disk.resize(64_000)
    assert main(["prepare", *on_disk]) == 0
    assert main(["prepare"]) == 0
    there, usual = PreparedData.open(prepared), PreparedData.open(project / "outputs" / "synthetic" / "prepared")
    there.verify()
    assert there.manifest == usual.manifest


@pytest.fixture
def split_data(project: Path) -> Path:
    """The project with its data prepared and split."""
    for command in ("prepare", "split"):
        assert main([command]) == 0
    return project / "outputs" / "synthetic"


def _weights(base: Path, framework: str) -> bytes:
    return (base / "train" / "0.5" / f"{framework}-ezvsl" / "0" / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_checkpoint(
    split_data: Path, disk: _Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before it stays, and the training ends with the weights of one that had room."""
    shutil.copytree(split_data, disk.folder / "synthetic")
    # The cached features lie beside the data, and would be what finds no room.
    asked = ["trainer.cache_features=false", f"tracking.uri=sqlite:///{split_data.parent / 'mlflow.db'}"]
    assert main(["train", f"root={split_data.parent}", *asked]) == 0
    on_disk = [f"root={disk.folder}", *asked]
    saved: list[Path] = []
    replace = Path.replace

    def filling(self: Path, target: Path) -> Path:
        done = replace(self, target)
        if target.name == "last.ckpt":
            saved.append(target)
            disk.fill(20)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", filling)
        assert main(["train", *on_disk]) == 2
    assert "No space left on device" in _sentence(capsys)
    (checkpoint,) = set(saved)
    assert len(saved) == 1
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    assert not _half_written(disk.folder)
    disk.resize(64_000)
    assert main(["train", *on_disk]) == 0
    assert _weights(disk.folder / "synthetic", "dmt") == _weights(split_data, "dmt")


@pytest.mark.slow
def test_mlflow(split_data: Path, disk: _Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """A store without room ends the training before its first step or goes on to its end; with room it ends well."""
    store = [f"tracking.uri=sqlite:///{disk.folder}/mlflow.db", f"tracking.artifact_root={disk.folder}/artifacts"]
    disk.resize(100)
    assert main(["train", *store]) == 2
    assert re.search("disk is full|No space left on device", _sentence(capsys))
    assert [path.name for path in disk.folder.rglob("*") if path.is_file()] == ["mlflow.db.lock"]
    disk.resize(64_000)
    # Room for the database and the run, but not for the model.
    assert main(["train", "framework=supervised", *store]) == 0
    disk.fill(8)
    assert main(["train", *store]) == 2
    assert re.search("disk is full|No space left on device", _sentence(capsys))
    disk.resize(64_000)
    assert main(["train", *store]) == 0
    assert _weights(split_data, "dmt")


def test_an_exported_model(disk: _Disk) -> None:
    """What is said names the file, and the model that was there stays whole."""
    write_model(disk.folder / "model")
    model, description = load_exported(disk.folder / "model")
    disk.fill(8)
    with pytest.raises(OSError, match=facts("model.safetensors")):
        save_exported(disk.folder / "model", model, description)
    kept, _ = load_exported(disk.folder / "model")
    assert all(map(torch.equal, kept.state_dict().values(), model.state_dict().values()))
    assert not _half_written(disk.folder)
