"""Localizing a video with a model whose maps the test can foretell."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.messages import facts
from tests.fixtures.overlays import RATE, BrightAndLoud, color, read_video, write_video
from tests.fixtures.reference import find_shared

from avsl.errors import DataError
from avsl.inference.predictor import Predictor
from avsl.inference.video import localize_video
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.registry.load import load_predictor


def test_boxes_follow_the_object_and_confidence_the_sound(tmp_path: Path, predictor: Predictor) -> None:
    """Each second's box lies on the object, its confidence follows the loudness, silence has none."""
    video = write_video(tmp_path / "moving.mkv", [0.9, 0.6, 0.0, 0.2, 0.9])
    target = localize_video(video, predictor, tmp_path / "out", model="test model", smoothing_s=0)
    assert target == tmp_path / "out" / "moving.json"
    record = json.loads(target.read_text())
    seconds = record.pop("seconds")
    assert record == {
        "video": "moving.mkv",
        "model": "test model",
        "trained_on": None,
        "threshold": 0.3,
        "presence": 0.0,
        "sound_window_s": 0.5,
        "frames_per_second": 1.0,
        "smoothing_s": 0,
        "damage": [],
    }
    assert [row["time_s"] for row in seconds] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert [row["visible_source"] for row in seconds] == [True, True, False, False, True]
    assert seconds[2] == {"time_s": 2.5, "confidence": None, "visible_source": False, "boxes": []}  # silence
    assert seconds[3]["boxes"] == []  # heard, below the threshold
    for k, loudness in ((0, 0.9), (1, 0.6), (3, 0.2), (4, 0.9)):
        assert seconds[k]["confidence"] == pytest.approx(loudness, abs=0.08)
    for k in (0, 1, 4):
        ((x0, y0, x1, y1, confidence),) = seconds[k]["boxes"]
        np.testing.assert_allclose([x0, y0, x1, y1], [k % 4 / 4, 1 / 3, k % 4 / 4 + 0.25, 2 / 3], atol=0.07)
        assert 0.3 <= confidence <= seconds[k]["confidence"]
    with Image.open(tmp_path / "out" / "moving.png") as sheet:
        assert sheet.width >= 5 * 64
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"moving.json", "moving.png", "moving.mp4"}


def test_presence_rejects_what_the_threshold_alone_would_not(tmp_path: Path, model: BrightAndLoud) -> None:
    """A map with a box, but a lower peak than the model's visible sources have, shows no source."""
    description = ExportedModel(
        members=[LocalizerConfig()], image_size=32, sample_rate=RATE, duration_s=0.5, threshold=0.3, presence=0.7
    )
    video = write_video(tmp_path / "v.mkv", [0.9, 0.5])
    out = localize_video(video, Predictor(model, description), tmp_path / "out", model="m", smoothing_s=0)
    record = json.loads(out.read_text())
    assert record["presence"] == 0.7
    assert [row["visible_source"] for row in record["seconds"]] == [True, False]
    assert record["seconds"][1]["boxes"] == []
    assert record["seconds"][1]["confidence"] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_maps_are_smoothed_over_time(tmp_path: Path, predictor: Predictor, rate: float) -> None:
    """The average is exponential in seconds whatever the rate of looks, and silence ends it."""
    loudness = [0.8, 0.4, 0.0, 0.0, 0.6]
    video = write_video(tmp_path / "v.mkv", loudness)
    target = localize_video(video, predictor, tmp_path, model="m", frames_per_second=rate, smoothing_s=2.0)
    place: NDArray[np.float64] | None = None  # the confidence at each of the square's four places
    for row in json.loads(target.read_text())["seconds"]:
        time = row["time_s"]
        # The window of half a second may reach into the second before or after.
        loudest = max(loudness[int(time - 0.25)], loudness[min(int(time + 0.249), 4)])
        if loudest == 0:
            assert row["confidence"] is None
            place = None
            continue
        now = np.eye(4)[int(time) % 4] * loudest
        kept = np.exp(-1 / (2.0 * rate))
        place = now if place is None else kept * place + (1 - kept) * now
        assert row["confidence"] == pytest.approx(place.max(), abs=0.06)


def test_the_overlay_fades_from_one_map_to_the_next(tmp_path: Path, predictor: Predictor) -> None:
    """Between two looks the color moves from one place to the other; what does not sound is left as it was."""
    video = write_video(tmp_path / "v.mkv", [0.9, 0.9], size=(128, 96))
    shown = read_video(localize_video(video, predictor, tmp_path, model="m", smoothing_s=0).with_suffix(".mp4"))
    heat = np.array([[color(f)[36:60, x + 4 : x + 28].mean() for x in (0, 32, 64)] for f in shown.frames])
    first, second, nowhere = heat.T
    assert first[2] > 40 > first[7] + 20
    assert second[7] > 40 > second[2] + 20
    # Looks are at frames 2 and 7 (0.5 and 1.5 s).
    assert np.all(np.diff(second[3:7]) >= -3)
    assert nowhere.max() < 15


def test_a_long_video_fills_a_sheet_of_bounded_size(tmp_path: Path, predictor: Predictor, model: BrightAndLoud) -> None:
    """The sheet does not grow with the video."""
    video = write_video(tmp_path / "long.mkv", [0.5] * 20)
    short = localize_video(video, predictor, tmp_path / "short", model="m", frames_per_second=2)
    long = localize_video(video, predictor, tmp_path / "long", model="m", frames_per_second=5)
    assert sum(model.batches) == 140
    rows = json.loads(long.read_text())["seconds"]
    assert len(rows) == 100
    assert all(row["confidence"] is not None for row in rows)
    with Image.open(short.with_suffix(".png")) as few, Image.open(long.with_suffix(".png")) as many:
        assert many.height <= few.height * 60 / 40


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_few_looks_at_a_video(tmp_path: Path, predictor: Predictor, rate: float) -> None:
    """A rate with less than a look a second, or none in the whole video, still draws every frame."""
    video = write_video(tmp_path / "v.mkv", [0.9] * 6)
    out = localize_video(video, predictor, tmp_path, model="m", frames_per_second=rate)
    assert [row["time_s"] for row in json.loads(out.read_text())["seconds"]] == (
        [pytest.approx(3, abs=0.01)] if rate == 0.05 else [1.25, 3.75]
    )
    assert len(read_video(out.with_suffix(".mp4")).frames) == 30


def test_damage_keeps_what_can_be_decoded_and_says_what_cannot(
    tmp_path: Path, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """A video that is cut off gives the part that is there; record and log say so."""
    video = write_video(tmp_path / "whole.mkv", [0.9] * 6)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    out = localize_video(cut, predictor, tmp_path / "out", model="m")
    record = json.loads(out.read_text())
    assert record["damage"]
    for sentence in record["damage"]:
        assert f"cut.mkv: {sentence}" in caplog.text
    assert 2 <= len(record["seconds"]) <= 4
    assert all(row["visible_source"] for row in record["seconds"][:2])
    assert 10 < len(read_video(out.with_suffix(".mp4")).frames) < 22


def test_a_failure_leaves_nothing_behind(tmp_path: Path, predictor: Predictor) -> None:
    """A bad video or setting is one sentence and makes no file."""
    video = write_video(tmp_path / "whole.mkv", [0.5] * 4)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:300])
    mute = tmp_path / "mute.mkv"
    with av.open(str(video)) as source, av.open(str(mute), "w") as container:
        track = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = track
                container.mux(packet)
    for path, message in (
        (cut, "cut.mp4"),
        (tmp_path / "none.mp4", "none.mp4"),
        (mute, "mute.mkv audio"),
    ):
        with pytest.raises(DataError, match=facts(message)):
            localize_video(path, predictor, tmp_path / "out", model="m")
    with pytest.raises(DataError, match=facts("mute.mkv audio")):  # before there was a first look
        localize_video(mute, predictor, tmp_path / "out", model="m", frames_per_second=0.1)
    with pytest.raises(DataError, match=r"frames_per_second = 0"):
        localize_video(video, predictor, tmp_path / "out", model="m", frames_per_second=0)
    with pytest.raises(DataError, match=r"smoothing_s = -1"):
        localize_video(video, predictor, tmp_path / "out", model="m", smoothing_s=-1)
    assert not list((tmp_path / "out").glob("*"))
    mp4 = write_video(tmp_path / "own.mp4", [0.5], sound_codec="aac")
    content = mp4.read_bytes()
    with pytest.raises(DataError, match=facts("own.mp4 folder")):
        localize_video(mp4, predictor, tmp_path, model="m")
    assert mp4.read_bytes() == content


@pytest.mark.parametrize(("data", "drawn"), [("synthetic", True), ("vggss", False), ("", False)])
def test_a_model_of_drawn_shapes_says_so(
    data: str, drawn: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder and data set are named; other models load without a word. The record has the data set."""
    member = LocalizerConfig(dim=8)
    description = ExportedModel(
        members=[member], image_size=48, sample_rate=RATE, duration_s=0.75, threshold=0.25, trained_on=data
    )
    save_exported(tmp_path / "model", LocalizerEnsemble([Localizer(member)]), description)
    predictor, source = load_predictor(checkpoint=tmp_path / "model", data="synthetic", ratio=0.03)
    assert ("'synthetic'" in caplog.text and source in caplog.text) is drawn
    target = localize_video(write_video(tmp_path / "v.mkv", [0.9]), predictor, tmp_path, model="m")
    assert json.loads(target.read_text())["trained_on"] == (data or None)


@pytest.mark.slow
def test_real_clip(tmp_path: Path, predictor: Predictor) -> None:
    """A real clip gets a confidence for every second."""
    clip = sorted(find_shared("clips").glob("*.mp4"))[0]
    seconds = json.loads(localize_video(clip, predictor, tmp_path, model="m").read_text())["seconds"]
    assert [row["time_s"] for row in seconds] == [k + 0.5 for k in range(10)]
    assert all(row["confidence"] is not None for row in seconds)
