"""Localizing a video with a model whose maps the test can foretell."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.messages import facts
from tests.fixtures.reference import find_shared
from torch import Tensor

from avsl.errors import DataError
from avsl.inference.predictor import Predictor
from avsl.inference.video import localize_video
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.registry.load import load_predictor

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


def write_video(
    path: Path,
    loudness: list[float],
    *,
    picture_codec: str = "mpeg4",
    sound_codec: str = "flac",
    size: tuple[int, int] = (64, 48),
    start_s: float = 0.0,
    rate: int = RATE,
) -> Path:
    """A second for each loudness; a bright square moves: in second k it covers columns 16·(k % 4) to +16 of 64."""
    width, height = size
    with av.open(str(path), "w") as container:
        picture = container.add_stream(picture_codec, rate=5)
        assert isinstance(picture, av.VideoStream)
        picture.width, picture.height, picture.pix_fmt, picture.bit_rate = width, height, "yuv420p", 1_000_000
        track = container.add_stream(sound_codec, rate=rate)
        assert isinstance(track, av.AudioStream)
        track.layout = "mono"
        for k, amplitude in enumerate(loudness):
            pixels = np.zeros((height, width, 3), np.uint8)
            left = round(width * (k % 4) / 4)
            pixels[height // 3 : 2 * height // 3, left : left + width // 4] = 255
            for part in range(5):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = 5 * k + part + round(5 * start_s)
                container.mux(picture.encode(frame))
            wave = amplitude * np.sin(2 * np.pi * 400 * np.arange(rate) / rate) * 32767
            sound = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            sound.sample_rate, sound.pts = rate, k * rate + round(rate * start_s)
            container.mux(track.encode(sound))
        container.mux(picture.encode())
        container.mux(track.encode())
    return path


class Film(NamedTuple):
    """A decoded overlay."""

    times: list[float]
    frames: list[NDArray[np.uint8]]
    picture_codec: str
    sound_codec: str
    rate: int
    sound: NDArray[np.float32]
    sound_starts_s: float


def read_film(path: Path) -> Film:
    """All of a video and the first channel of its sound."""
    with av.open(str(path)) as container:
        picture, track = container.streams.video[0], container.streams.audio[0]
        decoded = list(container.decode(picture))
        container.seek(0)
        to_float = av.AudioResampler(format="fltp")
        chunks = [out for frame in container.decode(track) for out in to_float.resample(frame)]
        return Film(
            [float(frame.time or 0) for frame in decoded],
            [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in decoded],
            picture.codec_context.name,
            track.codec_context.name,
            track.rate,
            np.concatenate([chunk.to_ndarray()[0] for chunk in chunks]),
            float(chunks[0].time or 0),
        )


def color(frame: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(H, W) how far from gray a pixel is: the video is black and white, maps and boxes are not."""
    spread: NDArray[np.int64] = np.ptp(frame.astype(np.int64), axis=2)
    return spread


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


@pytest.mark.parametrize(
    ("name", "codec", "rate", "copied"),
    [
        ("v.mp4", "aac", 16000, True),
        ("v.ts", "aac", 44100, True),
        ("v.avi", "mp3", 44100, True),
        ("v.mkv", "flac", 16000, False),
        ("v.avi", "mp2", 44100, False),
        ("v.webm", "libopus", 48000, False),
        ("v.mov", "pcm_s16le", 22050, False),
    ],
)
def test_the_overlay_has_every_frame_and_the_sound_in_step(
    tmp_path: Path, predictor: Predictor, name: str, codec: str, rate: int, copied: bool
) -> None:
    """From any container, frames and the sound's onset lie where they were; sound is copied where mp4 takes it."""
    picture = "libvpx" if name.endswith("webm") else "mpeg4"
    loudness = [0.0, 0.9, 0.0, 0.0]
    video = write_video(tmp_path / name, loudness, picture_codec=picture, sound_codec=codec, rate=rate)
    out = localize_video(video, predictor, tmp_path / "out", model="m")
    film, before = read_film(out.with_suffix(".mp4")), read_film(video)
    assert film.picture_codec == "h264"
    assert film.sound_codec == (before.sound_codec if copied else "aac")
    assert film.rate == rate
    # A stream may start late in its container (mp3 in AVI); what counts is the distance to the picture.
    np.testing.assert_allclose(film.times, np.array(before.times) - before.times[0] + film.times[0], atol=2e-3)
    onsets = [found.sound_starts_s + np.argmax(np.abs(found.sound) > 0.3) / rate for found in (film, before)]
    assert onsets[0] - film.times[0] == pytest.approx(onsets[1] - before.times[0], abs=0.03)
    if copied:
        assert len(film.sound) == pytest.approx(len(before.sound), abs=2400)
    heard = film.frames[7]
    assert color(heard)[:, 16:32].max() > 60
    assert color(film.frames[17]).max() < 60


def test_the_overlay_fades_from_one_map_to_the_next(tmp_path: Path, predictor: Predictor) -> None:
    """Between two looks the color moves from one place to the other; what does not sound is left as it was."""
    video = write_video(tmp_path / "v.mkv", [0.9, 0.9], size=(128, 96))
    film = read_film(localize_video(video, predictor, tmp_path, model="m", smoothing_s=0).with_suffix(".mp4"))
    heat = np.array([[color(f)[36:60, x + 4 : x + 28].mean() for x in (0, 32, 64)] for f in film.frames])
    first, second, nowhere = heat.T
    assert first[2] > 40 > first[7] + 20
    assert second[7] > 40 > second[2] + 20
    # Looks are at frames 2 and 7 (0.5 and 1.5 s).
    assert np.all(np.diff(second[3:7]) >= -3)
    assert nowhere.max() < 15


def test_a_stream_with_an_offset_and_odd_sides(tmp_path: Path, predictor: Predictor) -> None:
    """Time counts from the container's beginning; odd sides get a pixel more."""
    video = write_video(tmp_path / "v.ts", [0.0, 0.9, 0.0], sound_codec="mp2", size=(65, 47), start_s=30, rate=48000)
    out = localize_video(video, predictor, tmp_path / "out", model="m", smoothing_s=0)
    rows = json.loads(out.read_text())["seconds"]
    assert [row["time_s"] for row in rows][:3] == [0.5, 1.5, 2.5]
    assert [row["visible_source"] for row in rows][:3] == [False, True, False]
    film = read_film(out.with_suffix(".mp4"))
    assert film.frames[0].shape == (48, 66, 3)
    assert film.times[0] < 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_video_as_telephones_and_tapes_have_them(tmp_path: Path, predictor: Predictor, turned: bool) -> None:
    """Frames of uneven length keep their times, pixels their shape, and what is held sideways comes out upright."""
    video, ticks = tmp_path / "v.mp4", [0, 5, 6, 7, 8, 30, 31, 33, 58]
    with av.open(str(video), "w") as container:
        picture = container.add_stream("mpeg4", rate=30)
        picture.width, picture.height, picture.pix_fmt = 96, 48, "yuv420p"
        picture.codec_context.sample_aspect_ratio = Fraction(16, 11)
        track = container.add_stream("aac", rate=RATE)
        track.layout = "mono"
        for tick in ticks:
            pixels = np.zeros((48, 96, 3), np.uint8)
            pixels[16:32, :24] = 255  # on the left; once turned clockwise, above
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = tick
            container.mux(picture.encode(frame))
        wave = 0.9 * np.sin(2 * np.pi * 400 * np.arange(2 * RATE) / RATE) * 32767
        sound = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = RATE, 0
        container.mux(track.encode(sound))
        for stream in (picture, track):
            container.mux(stream.encode())
    if turned:
        content = video.read_bytes()
        upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
        quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
        matrix = content.index(upright, content.index(b"tkhd"))
        video.write_bytes(content[:matrix] + quarter + content[matrix + 36 :])
    out = localize_video(video, predictor, tmp_path / "out", model="m", smoothing_s=0)
    film = read_film(out.with_suffix(".mp4"))
    np.testing.assert_allclose(film.times, np.array(ticks) / 30, atol=2e-3)
    with av.open(str(out.with_suffix(".mp4"))) as container:
        shown = container.streams.video[0]
        assert (shown.width, shown.height) == ((48, 96) if turned else (96, 48))
        assert shown.sample_aspect_ratio == (Fraction(11, 16) if turned else Fraction(16, 11))
    assert len(film.sound) / film.rate == pytest.approx(2, abs=0.1)
    for row in json.loads(out.read_text())["seconds"]:
        ((x0, y0, x1, y1, _),) = row["boxes"]
        expected = [1 / 3, 0, 2 / 3, 0.25] if turned else [0, 1 / 3, 0.25, 2 / 3]
        np.testing.assert_allclose([x0, y0, x1, y1], expected, atol=0.07)


def test_without_libx264_the_overlay_is_mpeg4(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of FFmpeg without x264 still makes a video."""
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    video = write_video(tmp_path / "v.mkv", [0.9, 0.9])
    film = read_film(localize_video(video, predictor, tmp_path, model="m").with_suffix(".mp4"))
    assert (film.picture_codec, len(film.frames)) == ("mpeg4", 10)


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
    assert len(read_film(out.with_suffix(".mp4")).frames) == 30


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
    assert 10 < len(read_film(out.with_suffix(".mp4")).frames) < 22


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
