"""Annotated videos: frames, times, shapes and sound are those of the original."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fixtures.overlays import RATE, color, read_video, write_video

from avsl.inference.predictor import Predictor
from avsl.inference.video import localize_video


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
    overlay, before = read_video(out.with_suffix(".mp4")), read_video(video)
    assert overlay.picture_codec == "h264"
    assert overlay.sound_codec == (before.sound_codec if copied else "aac")
    assert overlay.rate == rate
    # A stream may start late in its container (mp3 in AVI); what counts is the distance to the picture.
    np.testing.assert_allclose(overlay.times, np.array(before.times) - before.times[0] + overlay.times[0], atol=2e-3)
    onsets = [found.sound_starts_s + np.argmax(np.abs(found.sound) > 0.3) / rate for found in (overlay, before)]
    assert onsets[0] - overlay.times[0] == pytest.approx(onsets[1] - before.times[0], abs=0.03)
    if copied:
        assert len(overlay.sound) == pytest.approx(len(before.sound), abs=2400)
    loud = overlay.frames[7]
    assert color(loud)[:, 16:32].max() > 60
    assert color(overlay.frames[17]).max() < 60


def test_a_stream_with_an_offset_and_odd_sides(tmp_path: Path, predictor: Predictor) -> None:
    """Time counts from the container's beginning; odd sides get a pixel more."""
    video = write_video(tmp_path / "v.ts", [0.0, 0.9, 0.0], sound_codec="mp2", size=(65, 47), start_s=30, rate=48000)
    out = localize_video(video, predictor, tmp_path / "out", model="m", smoothing_s=0)
    rows = json.loads(out.read_text())["seconds"]
    assert [row["time_s"] for row in rows][:3] == [0.5, 1.5, 2.5]
    assert [row["visible_source"] for row in rows][:3] == [False, True, False]
    overlay = read_video(out.with_suffix(".mp4"))
    assert overlay.frames[0].shape == (48, 66, 3)
    assert overlay.times[0] < 1


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
    overlay = read_video(out.with_suffix(".mp4"))
    np.testing.assert_allclose(overlay.times, np.array(ticks) / 30, atol=2e-3)
    with av.open(str(out.with_suffix(".mp4"))) as container:
        shown = container.streams.video[0]
        assert (shown.width, shown.height) == ((48, 96) if turned else (96, 48))
        assert shown.sample_aspect_ratio == (Fraction(11, 16) if turned else Fraction(16, 11))
    assert len(overlay.sound) / overlay.rate == pytest.approx(2, abs=0.1)
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
    overlay = read_video(localize_video(video, predictor, tmp_path, model="m").with_suffix(".mp4"))
    assert (overlay.picture_codec, len(overlay.frames)) == ("mpeg4", 10)
