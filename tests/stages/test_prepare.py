"""The preparation step, from a folder here and from S3."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import boto3
import numpy as np
import pytest
import soundfile
from filelock import FileLock
from PIL import Image
from tests.fixtures.messages import facts

from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.stages.prepare import prepare, split
from avsl.storage import StorageError, upload

_PROJECT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six annotated samples in VGG-SS's layout; the working directory is the project's."""
    monkeypatch.chdir(_PROJECT)
    root = tmp_path / "source"
    (root / "frames").mkdir(parents=True)
    (root / "audio").mkdir()
    for k in range(6):
        Image.fromarray(np.full((32, 32, 3), 20 * k, np.uint8)).save(root / "frames" / f"s{k}.png")
        wave = 0.5 * np.sin(2 * np.pi * (200 + 50 * k) * np.arange(16000) / 16000)
        soundfile.write(root / "audio" / f"s{k}.flac", wave, 16000)
    rows = [{"file": f"s{k}", "class": "c", "bbox": [[0.25, 0.5, 0.75, 1.0]]} for k in range(6)]
    (root / "vggss.json").write_text(json.dumps(rows))
    return root


def _asked(source: str, out: Path, *more: str) -> list[str]:
    settings = [f"data.vggss.root='{source}'", "data.vggss.image_size=32", "data.vggss.duration_s=0.5"]
    return ["data=vggss", *settings, f"root={out}", *more]


def _prepared(source: str, out: Path) -> PreparedData:
    prepare(_asked(source, out))
    return PreparedData.open(out / "vggss" / "prepared")


@pytest.mark.parametrize(
    ("shares", "purpose"),
    [(("1.0", "0.5"), "training"), (("0.5", "0.0"), "validation"), (("0.0", "0.5"), "testing")],
)
def test_a_side_without_a_row_is_one_sentence(
    shares: tuple[str, str], purpose: str, folder: Path, tmp_path: Path
) -> None:
    """A published test set, which is for testing as a whole by default, says how to learn from a share of it."""
    asked = [f"data.vggss.{key}_share={share}" for key, share in zip(("test", "validation"), shares, strict=True)]
    asked = _asked(str(folder), tmp_path / "out", *asked)
    prepare(asked)
    with pytest.raises(DataError, match=facts(f"{purpose} data.vggss")):
        split(asked)


def test_where_the_data_lies_does_not_show_in_what_is_prepared(folder: Path, bucket: str, tmp_path: Path) -> None:
    """Equal manifests from a folder and from S3, and again after a sample has gone from both."""
    uri = f"s3://{bucket}/sets/vggss"
    upload(folder, uri)
    first = _prepared(str(folder), tmp_path / "here").manifest
    assert _prepared(uri, tmp_path / "there").manifest == first

    for name in ("frames/s5.png", "audio/s5.flac"):
        (folder / name).unlink()
        boto3.client("s3").delete_object(Bucket=bucket, Key=f"sets/vggss/{name}")
    rows = json.loads((folder / "vggss.json").read_text())[:5]
    (folder / "vggss.json").write_text(json.dumps(rows))
    upload(folder, uri)
    second = _prepared(uri, tmp_path / "there").manifest
    assert second == _prepared(str(folder), tmp_path / "here").manifest
    assert second.content_hash != first.content_hash


def test_an_address_with_nothing_is_named(folder: Path, bucket: str, tmp_path: Path) -> None:
    """One sentence; no prepared set comes of it."""
    with pytest.raises(StorageError, match=facts(f"s3://{bucket}/none")):
        _prepared(f"s3://{bucket}/none", tmp_path / "out")
    assert not (tmp_path / "out" / "vggss").exists()


def test_a_second_preparation_of_a_folder_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would write and clear the same files."""
    monkeypatch.chdir(tmp_path)
    sizes = ("image_size=32", "duration_s=0.25", "n_train=8", "n_validation=8", "n_test=8", "n_offscreen=2")
    overrides = ["data=synthetic", *(f"data.synthetic.{size}" for size in sizes), f"root={tmp_path}"]
    prepared = tmp_path / "synthetic" / "prepared"
    prepared.parent.mkdir()
    second = threading.Thread(target=prepare, args=(overrides,))
    with FileLock(prepared.with_suffix(".lock")):
        second.start()
        second.join(3)
        assert second.is_alive()
        assert not prepared.exists()
    second.join(120)
    assert len(PreparedData.open(prepared).indices("train")) == 8
