"""Localising a video with a model whose maps the test can foretell."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from avsl.data.errors import DataError
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.schema import ConfigError
from avsl.serving.localize import load_predictor, localize_video
from avsl.serving.packaging import model_code
from avsl.serving.predictor import Predictor
from avsl.tracking.registry import Candidate, hash_model, promote
from avsl.tracking.runs import RunTags, TrackingConfig, TrackingError, open_store, start_or_resume_run

SHARED = Path(os.environ.get("AVSL_SHARED_DIR", Path(__file__).parents[3] / "shared"))
RATE = 16000


class BrightAndLoud(LocalizerEnsemble):
    """P = brightness of the pixel times loudness of the sound."""

    def __init__(self) -> None:
        super().__init__([])
        self.batches: list[int] = []

    def predict(self, frames: Tensor, waveforms: Tensor) -> Tensor:
        """As the real one's."""
        self.batches.append(len(frames))
        loudness = waveforms.abs().amax(dim=1).clamp(0, 1)
        return frames.float().mean(dim=3) / 255 * loudness[:, None, None]


@pytest.fixture
def model() -> BrightAndLoud:
    """A stand-in that marks what is bright while it is loud."""
    return BrightAndLoud()


@pytest.fixture
def predictor(model: BrightAndLoud) -> Predictor:
    """A predictor around the stand-in."""
    description = ExportedModel(
        members=[LocalizerConfig()], image_size=32, sample_rate=RATE, duration_s=0.5, threshold=0.3
    )
    return Predictor(model, description)


def write_video(path: Path, loudness: list[float]) -> Path:
    """A second for each loudness; a bright square moves: in second k it covers columns 16·(k % 4) to +16 of 64."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width, picture.height, picture.pix_fmt, picture.bit_rate = 64, 48, "yuv420p", 1_000_000
        track = container.add_stream("flac", rate=RATE)
        track.format, track.layout = "s16", "mono"
        for k, amplitude in enumerate(loudness):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[16:32, 16 * (k % 4) : 16 * (k % 4) + 16] = 255
            for part in range(5):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = 5 * k + part
                container.mux(picture.encode(frame))
            wave = amplitude * np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE) * 32767
            sound = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            sound.sample_rate, sound.pts = RATE, k * RATE
            container.mux(track.encode(sound))
        container.mux(picture.encode())
        container.mux(track.encode())
    return path


def test_boxes_follow_the_object_and_confidence_the_sound(tmp_path: Path, predictor: Predictor) -> None:
    """Each second's box lies on the object, its confidence follows the loudness, silence has none."""
    video = write_video(tmp_path / "moving.mkv", [0.9, 0.6, 0.0, 0.2, 0.9])
    target = localize_video(video, predictor, tmp_path / "out", model="test model")
    assert target == tmp_path / "out" / "moving.json"
    record = json.loads(target.read_text())
    assert {key: record[key] for key in ("video", "model", "threshold", "sound_window_s")} == {
        "video": "moving.mkv",
        "model": "test model",
        "threshold": 0.3,
        "sound_window_s": 0.5,
    }
    seconds = record["seconds"]
    assert [row["time_s"] for row in seconds] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert seconds[2] == {"time_s": 2.5, "confidence": None, "boxes": []}  # silence: nothing to localise
    assert seconds[3]["boxes"] == []  # heard, below the threshold
    for k, loudness in ((0, 0.9), (1, 0.6), (3, 0.2), (4, 0.9)):
        assert seconds[k]["confidence"] == pytest.approx(loudness, abs=0.08)
    for k in (0, 1, 4):
        ((x0, y0, x1, y1, confidence),) = seconds[k]["boxes"]
        np.testing.assert_allclose([x0, y0, x1, y1], [k % 4 / 4, 1 / 3, k % 4 / 4 + 0.25, 2 / 3], atol=0.07)
        assert 0.3 <= confidence <= seconds[k]["confidence"]
    with Image.open(tmp_path / "out" / "moving.png") as sheet:
        assert sheet.width >= 5 * 64
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"moving.json", "moving.png"}


def test_a_long_video_passes_in_batches_and_fills_a_sheet_of_bounded_size(
    tmp_path: Path, predictor: Predictor, model: BrightAndLoud
) -> None:
    """Memory and the sheet do not grow with the video."""
    video = write_video(tmp_path / "long.mkv", [0.5] * 20)
    short = localize_video(video, predictor, tmp_path / "short", model="m", frames_per_second=2)
    long = localize_video(video, predictor, tmp_path / "long", model="m", frames_per_second=5)
    assert sum(model.batches) == 140
    assert max(model.batches) <= 8
    rows = json.loads(long.read_text())["seconds"]
    assert len(rows) == 100
    assert all(row["confidence"] is not None for row in rows)
    with Image.open(short.with_suffix(".png")) as few, Image.open(long.with_suffix(".png")) as many:
        assert many.height <= few.height * 60 / 40


def test_a_failure_leaves_nothing_behind(tmp_path: Path, predictor: Predictor) -> None:
    """A bad video or rate is one sentence and makes no folder."""
    video = write_video(tmp_path / "whole.mkv", [0.5] * 4)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:300])
    for path, message in ((cut, r"cut\.mp4: "), (tmp_path / "none.mp4", r"none\.mp4: no such file")):
        with pytest.raises(DataError, match=message):
            localize_video(path, predictor, tmp_path / "out", model="m")
    with pytest.raises(DataError, match=r"frames_per_second = 0"):
        localize_video(video, predictor, tmp_path / "out", model="m", frames_per_second=0)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """An empty folder, an impossible ratio and a foreign URI are named."""
    with pytest.raises(ConfigError, match="holds no exported model"):
        load_predictor(checkpoint=tmp_path, data="synthetic", ratio=0.1)
    with pytest.raises(ConfigError, match=r"label ratio 1\.5 is not in \(0, 1\]"):
        load_predictor(data="synthetic", ratio=1.5)
    with pytest.raises(TrackingError, match="neither models:/NAME@ALIAS nor models:/NAME/VERSION"):
        load_predictor(uri="runs:/abc/model", data="synthetic", ratio=0.1)


@pytest.mark.slow
def test_registered_models_are_found_by_ratio_alias_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion of a ratio is found each way and predicts as its files do."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    store = open_store(TrackingConfig(artifact_root=str(tmp_path / "artifacts"), system_metrics=False), tmp_path)
    tags = RunTags("dmt", "ezvsl", 0.03, 0, "data", "split", "none", "none")
    with start_or_resume_run(store, "synthetic", "test", tags, {}) as run:
        pass
    folder = tmp_path / "exported" / "model"
    member = LocalizerConfig(dim=8)
    description = ExportedModel(members=[member], image_size=48, sample_rate=RATE, duration_s=0.75, threshold=0.25)
    save_exported(folder, LocalizerEnsemble([Localizer(member)]), description)
    candidate = Candidate(run.run_id, "dmt", 0.5, "ciou", "split", "synthetic", 0.03, folder, hash_model(folder))
    promote(store, [candidate], "synthetic", 0.03, "split", "ciou", model_code())

    name = "models:/avsl-synthetic-ratio-0.03"
    frames, sounds = [np.full((30, 40, 3), 90, np.uint8)], [np.full(9000, 0.1, np.float32)]
    expected = Predictor.load(folder).predict(frames, sounds)[0].map
    for uri in (None, f"{name}@champion", f"{name}/1"):
        found, source = load_predictor(uri=uri, data="synthetic", ratio=0.03)
        assert source == f"{name}/1"
        assert (found.duration_s, found.threshold) == (0.75, 0.25)
        np.testing.assert_array_equal(found.predict(frames, sounds)[0].map, expected)
    for uri, message in ((f"{name}/7", "version=7"), (f"{name}@second", "second"), (None, "ratio-0.5")):
        with pytest.raises(TrackingError, match=message):
            load_predictor(uri=uri, data="synthetic", ratio=0.5)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="AVSL_SHARED_DIR holds no clips")
def test_real_clip(tmp_path: Path, predictor: Predictor) -> None:
    """A real clip gets a confidence for every second."""
    clip = sorted((SHARED / "clips").glob("*.mp4"))[0]
    seconds = json.loads(localize_video(clip, predictor, tmp_path, model="m").read_text())["seconds"]
    assert [row["time_s"] for row in seconds] == [k + 0.5 for k in range(10)]
    assert all(row["confidence"] is not None for row in seconds)
