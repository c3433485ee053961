"""Localizing a folder of videos: what is done, kept, left out and refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts, says

from avsl.cli import main
from avsl.errors import DataError
from avsl.inference.folder import localize_folder
from avsl.inference.predictor import Predictor
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: LocalizerConfig) -> Path:
    """An exported, untrained localizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    description = ExportedModel(members=[tiny], image_size=32, sample_rate=RATE, duration_s=0.25, threshold=0.3)
    save_exported(folder, LocalizerEnsemble([Localizer(tiny)]), description)
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    """The same, loaded."""
    return Predictor.load(model)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of noise to see and hear."""
    path = tmp_path_factory.mktemp("video") / "noise.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("flac", rate=RATE)
        track.format, track.layout = "s16", "mono"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        noise = rng.integers(-9000, 9000, (1, 2 * RATE), np.int16)
        sound = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        sound.sample_rate, sound.pts = RATE, 0
        container.mux(track.encode(sound))
        for stream in (picture, track):
            container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    """Two videos, one that is broken, and files that are none."""
    folder = tmp_path / "clips"
    (folder / "inner.mp4").mkdir(parents=True)
    for name in ("a.mkv", "c.MKV"):
        shutil.copyfile(video, folder / name)
    (folder / "b.mp4").write_bytes(video.read_bytes()[:300])
    (folder / "boxes.json").write_text("{}")
    return folder


def test_a_broken_video_is_left_out_and_the_rest_is_done(
    folder: Path, predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every good video gets its result; the others are named, and the end says how many they were."""
    out = tmp_path / "out"
    done = localize_folder(folder, predictor, out, model="m")
    with caplog.at_level(logging.WARNING):
        assert next(done) == out / "a.json"
        assert next(done) == out / "c.json"
        with pytest.raises(DataError, match=facts("clips 1 3 videos")):
            next(done)
    (reported,) = caplog.messages
    assert "b.mp4" in reported
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}" for name in "ac" for kind in ("json", "png", "mp4")
    }


def test_what_is_there_by_the_same_model_is_kept(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    """Another model, rate or smoothing, a newer video, a damaged result or maps that are missing are done again."""
    out = tmp_path / "out"
    (folder / "b.mp4").unlink()

    def run(model: str = "m", rate: float = 1.0, smoothing: float = 0.5, maps: bool = False) -> set[str]:
        """The names whose results are new."""
        before = {path: path.stat().st_ino for path in out.glob("*.json")}
        how: dict[str, Any] = {"model": model, "frames_per_second": rate, "smoothing_s": smoothing, "maps": maps}
        done = list(localize_folder(folder, predictor, out, **how))
        assert [path.name for path in done] == ["a.json", "c.json"]
        return {path.stem for path in done if before.get(path) != path.stat().st_ino}

    assert run() == {"a", "c"}
    assert run() == set()
    assert run(rate=2.0) == {"a", "c"}
    assert run(rate=2.0, smoothing=0.0) == {"a", "c"}
    assert run(model="m2", rate=2.0) == {"a", "c"}
    assert json.loads((out / "a.json").read_text())["model"] == "m2"
    later = (out / "a.json").stat().st_mtime + 10
    os.utime(folder / "a.mkv", (later, later))
    (out / "c.json").write_text("{")
    assert run(model="m2", rate=2.0) == {"a", "c"}
    (out / "c.json").unlink()
    os.utime(folder / "a.mkv", (0, 0))
    assert run(model="m2", rate=2.0) == {"c"}
    assert run(model="m2", rate=2.0, maps=True) == {"a", "c"}
    assert run(model="m2", rate=2.0, maps=True) == set()


def test_folders_that_cannot_be(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    """No video, or two with one name, is one sentence before any work."""
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=facts("out mp4")):
        list(localize_folder(tmp_path / "out", predictor, tmp_path / "out", model="m"))
    (folder / "a.mp4").touch()
    with pytest.raises(DataError, match=facts("a.mkv a.mp4 a.json")):
        list(localize_folder(folder, predictor, tmp_path / "out", model="m"))
    assert not list((tmp_path / "out").iterdir())


def test_the_command_prints_what_it_made_and_ends_with_2(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`avsl localize FOLDER`: paths on stdout, the failures at the end on stderr."""
    out = tmp_path / "out"
    command = ["localize", str(folder), "--checkpoint", str(model), "--out", str(out)]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(out / f"{name}.{kind}") for name in "ac" for kind in ("json", "png", "mp4")]
    assert says(printed.err, "1 3 videos")
    (folder / "b.mp4").unlink()
    assert main(command) == 0
