"""Which frame is on screen, against videos whose frames carry their number."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.media import FRAME_RATE, WriteMedia, number_of
from tests.fixtures.reference import find_shared

from avsl.data.media.container import media_duration
from avsl.data.media.video import iter_shots, read_frame
from avsl.errors import DataError

# Containers and codecs: name, codec of the picture and of the sound, the encoder's options.
_KINDS = {
    "b-frames.mp4": ("libx264", "aac", {"bf": "3", "g": "20"}),
    "b-frames.mkv": ("libx264", "flac", {"bf": "3", "g": "20"}),
    "hevc.mp4": ("libx265", "aac", {"x265-params": "log-level=none:keyint=20"}),
    "delayed.webm": ("libvpx-vp9", "libopus", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
    "b-frames.avi": ("libx264", "libmp3lame", {"bf": "3", "g": "20"}),
    "plain.avi": ("ffv1", "pcm_s16le", {}),
    "no-index.ts": ("libx264", "aac", {"bf": "3", "g": "20"}),
    "open-gop.ts": ("libx264", "aac", {"x264-params": "open-gop=1:keyint=20"}),
    "no-key-frame.ts": ("libx264", "aac", {"x264-params": "intra-refresh=1:keyint=20"}),
    "mpeg2.ts": ("mpeg2video", "mp2", {"bf": "2"}),
    "flash.flv": ("libx264", "aac", {"bf": "3"}),
    "raw.h264": ("libx264", None, {"bf": "3", "g": "20"}),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_the_frame_on_screen_is_one_in_all_containers(tmp_path: Path, write_media: WriteMedia, kind: str) -> None:
    """One at a time or all in turn, with an index or without, from codecs that delay and reorder frames."""
    picture, sound, options = _KINDS[kind]
    path = write_media(tmp_path / kind, picture=picture, sound=sound, options=options)
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    assert damage == []
    assert [number_of(shot.pixels()) for shot in shots] == list(range(60))
    # AVI and the transport stream let one of the two streams begin a little late.
    starts = np.array([shot.start_s for shot in shots])
    np.testing.assert_allclose(starts, np.arange(60) / FRAME_RATE + starts[0], atol=2e-3)
    assert 0 <= starts[0] < 0.15
    for time in [0.0, *np.arange(0.26, 5.9, 0.37).tolist(), 5.95]:
        shown = next(shot for shot in shots if shot.is_on_screen(time))
        np.testing.assert_array_equal(read_frame(path, time), shown.pixels(), err_msg=f"at {time}")
        assert abs(number_of(shown.pixels()) - time * FRAME_RATE) < 2.6


@pytest.mark.parametrize(("suffix", "begin"), list(product([".mkv", ".ts", ".mp4"], [4.0, 60.0])))
def test_time_counts_from_the_first_frame(tmp_path: Path, write_media: WriteMedia, suffix: str, begin: float) -> None:
    """Cuts that keep their time stamps and live streams begin late; their middle is in the middle."""
    path = write_media(tmp_path / f"late{suffix}", picture_s=begin, sound_s=begin)
    assert media_duration(path) == pytest.approx(6, abs=0.1)
    assert abs(number_of(read_frame(path, None)) - 30) <= 1
    damage: list[str] = []
    assert len(list(iter_shots(path, damage))) == 60
    assert damage == []


def test_frames_are_those_on_screen(video: Path) -> None:
    """A frame is the one shown at the asked time, the middle one by default; none after the end."""
    for time in (0.0, 2.45, 4.95, 5.95):
        assert number_of(read_frame(video, time)) == int(time * FRAME_RATE + 1e-6)
    assert number_of(read_frame(video, None)) == 30
    with pytest.raises(DataError, match=r"clip\.mp4: .*9\.00 s"):
        read_frame(video, 9.0)


def test_frames_of_uneven_length_are_on_screen_until_the_next(tmp_path: Path, write_media: WriteMedia) -> None:
    """B-frames, late key frames and uneven times: each frame is the one that decoding from the start finds."""
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.choice([0.04, 0.04, 0.08, 1.6], 60)).round(3) - 0.04
    starts -= starts[0]
    options = {"g": "20", "bf": "3", "b-pyramid": "normal"}
    path = write_media(tmp_path / "uneven.mp4", picture="libx264", sound=None, frames=starts.tolist(), options=options)
    for time in [0.0, *rng.uniform(0, starts[-1], 40).tolist(), *starts[5:50:9].tolist()]:
        assert number_of(read_frame(path, time + 2e-6)) == np.flatnonzero(starts <= time + 2e-6)[-1], f"at {time}"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_still_picture_is_on_screen_as_long_as_the_sound(
    tmp_path: Path, write_media: WriteMedia, suffix: str
) -> None:
    """A video of one frame with sound, and a picture that ends before the sound, show their last frame to the end."""
    for frames in ([0.0], [0.0, 0.1, 0.2]):
        path = write_media(tmp_path / f"still{suffix}", frames=frames)
        damage: list[str] = []
        *_, last = iter_shots(path, damage)
        assert last.end_s == pytest.approx(6, abs=0.1)
        assert damage == []
        assert number_of(read_frame(path, 5.5)) == len(frames) - 1
        assert media_duration(path) == pytest.approx(6, abs=0.1)


def test_shots_are_all_frames_each_until_the_next(video: Path) -> None:
    """Every frame comes once, in order, without a gap."""
    shots = list(iter_shots(video, []))
    np.testing.assert_allclose([shot.end_s for shot in shots[:-1]], [shot.start_s for shot in shots[1:]])
    assert shots[-1].end_s == pytest.approx(6, abs=0.06)


def _with_matrix(source: Path, target: Path, matrix: NDArray[np.int32]) -> Path:
    """The same mp4 with another display matrix."""
    content = bytearray(source.read_bytes())
    start = content.find(b"tkhd") + 4 + 40
    assert content[start : start + 4] == b"\x00\x01\x00\x00"
    content[start : start + 36] = matrix.astype(">i4").tobytes()
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [
        m
        for m in product((-1, 0, 1), repeat=4)
        if abs(np.linalg.det(np.reshape(m, (2, 2)))) == 1 and np.abs(m).sum() == 2
    ],
)
def test_a_video_is_shown_as_its_display_matrix_says(
    video: Path, tmp_path: Path, a: int, b: int, c: int, d: int
) -> None:
    """All eight ways to turn and mirror: the pixel at (x, y) comes to (a x + c y, b x + d y)."""
    one = 1 << 16
    matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
    path = _with_matrix(video, tmp_path / "turned.mp4", matrix)
    stored, shown = read_frame(video, 2.5), read_frame(path, 2.5)
    height, width = stored.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    left, top = a * xs + c * ys, b * xs + d * ys
    expected = np.zeros((height, width, 3) if a else (width, height, 3), np.uint8)
    expected[top - top.min(), left - left.min()] = stored
    np.testing.assert_array_equal(shown, expected)
    np.testing.assert_array_equal(next(iter_shots(path, [])).pixels().shape, expected.shape)


def test_truncated_video_is_refused(video: Path, tmp_path: Path) -> None:
    """A video cut in half has no frame of what is gone, and all of what is there."""
    path = _cut(tmp_path, write_faststart(video, tmp_path))
    with pytest.raises(DataError, match=r"cut\.mp4: truncated"):
        read_frame(path, 5.5)
    assert number_of(read_frame(path, 1.0)) == 10


def write_faststart(video: Path, folder: Path) -> Path:
    """The same with its header first."""
    path = folder / "fast.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        tracks = {
            stream.index: target.add_stream_from_template(stream)
            for stream in (*source.streams.video, *source.streams.audio)
        }
        for packet in source.demux(*source.streams.video, *source.streams.audio):
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                target.mux(packet)
    return path


def _cut(folder: Path, whole: Path) -> Path:
    path = folder / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def test_iterating_a_truncated_video_gives_what_is_there_and_says_what_is_not(video: Path, tmp_path: Path) -> None:
    """Half of the frames come, and a sentence for the others."""
    damage: list[str] = []
    shots = list(iter_shots(_cut(tmp_path, write_faststart(video, tmp_path)), damage))
    assert 15 < len(shots) < 45
    assert any("truncated" in sentence and "picture" in sentence for sentence in damage)


def test_damage_in_the_middle_is_passed_over_and_told(video: Path, tmp_path: Path) -> None:
    """Frames before and after broken bytes come at their times."""
    content = bytearray(write_faststart(video, tmp_path).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path = tmp_path / "scratched.mp4"
    path.write_bytes(content)
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    assert any("damaged" in sentence for sentence in damage)
    assert number_of(shots[0].pixels()) == 0
    assert shots[-1].start_s == pytest.approx(5.9, abs=0.01)


@pytest.mark.parametrize("leap", [7200, 20_000])
def test_a_leap_of_the_pictures_time_is_its_end(tmp_path: Path, write_media: WriteMedia, leap: int) -> None:
    """A frame that is said to come, or to stay, hours later than the one before is damage, not a long shot."""
    path = write_media(tmp_path / "leap.mkv", frames=[0, 1, 2, leap], sound=None)
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    assert [(shot.start_s, shot.end_s) for shot in shots] == [(0, 1), (1, 2), (2, 2)]
    assert "2.0 s" in damage[0]


def test_real_clip() -> None:
    """A real clip gives a frame with content."""
    path = sorted(find_shared("clips").glob("*.mp4"))[0]
    assert read_frame(path, None).std() > 20
