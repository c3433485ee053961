"""Decoding against media whose content is known because the test wrote them."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from avsl.data.listing import files_by_id
from avsl.data.media.audio import iter_audio, read_audio
from avsl.data.media.container import media_duration
from avsl.data.media.image import read_mask, resize_frame
from avsl.data.media.video import iter_shots, read_frame
from avsl.errors import DataError


def tone(seconds: float, rate: int, frequency: float = 440.0) -> NDArray[np.float32]:
    """A sine at half the full scale."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch(samples: NDArray[np.float32], rate: int = 16000) -> float:
    """Frequency of the strongest component, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


def gray(second: int) -> int:
    """The gray value that the test video shows in a second."""
    return 20 + 20 * second


def write_video(
    path: Path, seconds: int, sound: NDArray[np.float32] | None, rate: int = 44100, heard_from: int = 0
) -> Path:
    """10 pictures a second; the left half's brightness tells the second, the right half is black."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt, picture.bit_rate = 96, 64, "yuv420p", 800_000
        track = None if sound is None else container.add_stream("aac", rate=rate)
        for second in range(seconds):
            pixels = np.zeros((64, 96, 3), np.uint8)
            pixels[:, :48] = gray(second)
            for tenth in range(10):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = second * 10 + tenth
                container.mux(picture.encode(frame))
            if track is not None and sound is not None:
                part = sound[second * rate : (second + 1) * rate]
                if len(part) and second >= heard_from:
                    samples = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
                    samples.sample_rate, samples.pts = rate, second * rate
                    container.mux(track.encode(samples))
        container.mux(picture.encode())
        if track is not None:
            container.mux(track.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds; the pitch rises by 200 Hz a second."""
    sound = np.concatenate([tone(1, 44100, 300 + 200 * second) for second in range(6)])
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", 6, sound)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_audio_is_resampled_mixed_down_and_cut_at_the_asked_time(tmp_path: Path, suffix: str) -> None:
    """A window holds the pitch of its own time, mono at 16 kHz, with its level kept."""
    path = tmp_path / f"sound{suffix}"
    left = np.concatenate([tone(2, 44100, 500), tone(2, 44100, 1500)])
    soundfile.write(path, np.stack([left, left], axis=1), 44100)
    early, late = read_audio(path, 0.3, 1.0), read_audio(path, 2.5, 1.0)
    assert early.shape == late.shape == (16000,)
    assert early.dtype == np.float32
    assert pitch(early) == pytest.approx(500, abs=2)
    assert pitch(late) == pytest.approx(1500, abs=2)
    assert np.abs(late[1000:-1000]).max() == pytest.approx(0.5, abs=0.08)


def test_audio_at_its_own_rate_is_bit_exact(tmp_path: Path) -> None:
    """Without resampling a window equals the file's samples, moved inside where it would reach out."""
    path, samples = tmp_path / "a.wav", tone(2, 16000)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, 0.25, 1.0), samples[4000:20000])
    np.testing.assert_array_equal(read_audio(path, None, 1.0), samples[8000:24000])
    np.testing.assert_array_equal(read_audio(path, 1.7, 1.0), samples[16000:])  # moved into the recording


def test_short_audio_is_tiled(tmp_path: Path) -> None:
    """A sound shorter than the window is repeated."""
    path, samples = tmp_path / "a.wav", tone(0.3, 16000)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, 0.0, 1.0), np.concatenate([samples] * 4)[:16000])


def test_sound_track_window_starts_where_asked(video: Path) -> None:
    """Windows of a video's sound hold the pitch of their second and always have full length."""
    for second in range(6):
        assert pitch(read_audio(video, second + 0.2, 0.6)) == pytest.approx(300 + 200 * second, abs=3)
    assert len(read_audio(video, 5.8, 3.0)) == 48000


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("heard", "asked", "found"),
    [((0, 5), 3.5, 2), ((0, 5), 8.0, 2), ((0, 3), 3.5, 0), ((4, 10), 3.5, 4), ((4, 10), 0.0, 4), ((8, 10), 3.5, 8)],
)
def test_a_window_beside_the_sound_is_moved_into_it(
    suffix: str, heard: tuple[int, int], asked: float, found: int, tmp_path: Path
) -> None:
    """Where the picture goes on without sound, or begins before it: the nearest three seconds, unspliced."""
    begin, end = heard
    pitches = [300 + 200 * second for second in range(end)]
    sound = np.concatenate([tone(1, 44100, frequency) for frequency in pitches])
    path = write_video(tmp_path / f"clip{suffix}", 10, sound, heard_from=begin)
    window = read_audio(path, asked, 3.0)
    for k in range(min(3, end - found)):
        middle = window[16000 * k + 3000 : 16000 * k + 13000]
        assert pitch(middle) == pytest.approx(pitches[found + k], abs=3)


def test_frames_are_those_on_screen(video: Path) -> None:
    """A frame is the one shown at the asked time, the middle one by default; none after the end."""
    for time in (0.0, 2.45, 4.95, 5.95):
        frame = read_frame(video, time)
        assert frame.shape == (64, 96, 3)
        assert frame[:, 8:40].mean() == pytest.approx(gray(int(time)), abs=4)
        assert frame[:, 56:].mean() < 4
    assert read_frame(video, None)[:, 8:40].mean() == pytest.approx(gray(3), abs=4)
    with pytest.raises(DataError, match=r"clip\.mp4: has no frame at 9\.00 s"):
        read_frame(video, 9.0)


def test_passing_over_frames_that_no_other_needs_changes_nothing(tmp_path: Path) -> None:
    """B-frames, late key frames and uneven times: each frame is the one that decoding from the start finds."""
    path = tmp_path / "uneven.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "20", "bf": "3", "b-pyramid": "normal"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = rng.integers(0, 256, (48, 128, 3), dtype=np.uint8)
        due = 0
        for k in range(60):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, k : k + 64]), format="rgb24")
            frame.pts = due
            due += int(rng.choice([1, 1, 1, 2, 40]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        decoded = [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        origin = (container.start_time or 0) / av.time_base
    starts = [time - origin for time, _ in decoded]
    for time in [0.0, *rng.uniform(0, starts[-1], 40).tolist(), *starts[5:50:9]]:
        expected = max((k for k, start in enumerate(starts) if start <= time + 1e-9), default=0)
        np.testing.assert_array_equal(read_frame(path, time + 1e-9), decoded[expected][1], err_msg=f"at {time}")


def test_shots_are_all_frames_each_until_the_next(video: Path) -> None:
    """Every frame comes once, in order, without a gap, with the picture of its time."""
    damage: list[str] = []
    shots = list(iter_shots(video, damage))
    assert damage == []
    np.testing.assert_allclose([shot.start_s for shot in shots], np.arange(60) / 10, atol=1e-3)
    np.testing.assert_allclose([shot.end_s for shot in shots], np.arange(1, 61) / 10, atol=1e-3)
    for shot in shots[5::10]:
        assert shot.pixels()[:, 8:40].mean() == pytest.approx(gray(int(shot.start_s)), abs=4)
    assert media_duration(video) == pytest.approx(6, abs=0.06)


def test_iterated_sound_is_that_of_its_time(video: Path) -> None:
    """Windows are centered on their times, which are asked for one by one."""
    asked: list[int] = []

    def times() -> Iterator[float]:
        for second in range(6):
            asked.append(second)
            yield second + 0.5

    for second, window in enumerate(iter_audio(video, times(), 0.6, 16000, [])):
        assert asked[-1] == second
        assert window is not None
        assert pitch(window) == pytest.approx(300 + 200 * second, abs=3)


def test_iterated_sound_equals_the_windows_read_one_by_one(video: Path) -> None:
    """One pass over the sound gives the windows that separate reads give."""
    times = [0.1, 0.5, 2.75, 3.0, 4.9]
    for time, window in zip(times, iter_audio(video, times, 1.5, 16000, []), strict=True):
        assert window is not None
        alone = read_audio(video, time - 0.75, 1.5)
        # The two may start a sample apart, by rounding at the sound track's own rate.
        distances = [np.abs(window[2:-2] - alone[2 + lag : len(alone) - 2 + lag]).max() for lag in (-1, 0, 1)]
        assert min(distances) < 0.02


def test_silence_and_times_without_a_sound_track_are_no_window(tmp_path: Path) -> None:
    """Silence and times before and after the sound give None, not zeros and not the sound of another time."""
    sound = np.concatenate([tone(1, 44100), np.zeros(88200, np.float32)])
    path = write_video(tmp_path / "short_sound.mp4", 6, sound)
    windows = list(iter_audio(path, [0.5, 2.5, 5.5], 0.5, 16000, []))
    assert [window is None for window in windows] == [False, True, True]
    late = write_track(tmp_path / "late.mkv", [(4.0, 440.0)])
    windows = list(iter_audio(late, [0.5, 4.5], 0.5, 16000, []))
    assert [window is None for window in windows] == [True, False]


@pytest.mark.parametrize("hole", [1.0, 30.0])
def test_a_hole_in_the_sound_is_silence_and_moves_nothing(tmp_path: Path, hole: float) -> None:
    """After missing packets the sound keeps its time; in the hole there is none."""
    path = write_track(tmp_path / "hole.mkv", [(0.0, 440.0), (1.0 + hole, 880.0)])
    times = [0.5, 1 + hole / 2, 1.5 + hole]
    first, between, last = iter_audio(path, times, 0.5, 16000, [])
    assert first is not None
    assert last is not None
    assert between is None
    assert pitch(first) == pytest.approx(440, abs=3)
    assert pitch(last) == pytest.approx(880, abs=3)


def write_track(path: Path, seconds: list[tuple[float, float]]) -> Path:
    """A second of sound of a pitch in Hz at each given time, nothing between them, and a picture from 0 s."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuv420p"
        track = container.add_stream("flac", rate=16000)
        track.format, track.layout = "s16", "mono"
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
        for start, frequency in seconds:
            wave = (tone(1, 16000, frequency) * 32767).astype(np.int16)
            for part in range(10):
                frame = av.AudioFrame.from_ndarray(wave[None, part * 1600 : part * 1600 + 1600], "s16", "mono")
                frame.sample_rate, frame.pts = 16000, round(start * 16000) + part * 1600
                container.mux(track.encode(frame))
        container.mux(picture.encode())
        container.mux(track.encode())
    return path


def test_sideways_video_is_turned_upright(video: Path, tmp_path: Path) -> None:
    """The rotation in a video's header is applied to its frames."""
    content = bytearray(video.read_bytes())
    header = content.find(b"tkhd")
    matrix = header + 4 + 40
    assert content[matrix : matrix + 4] == b"\x00\x01\x00\x00"
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4")  # 90 degrees clockwise
    content[matrix : matrix + 36] = quarter.tobytes()
    path = tmp_path / "sideways.mp4"
    path.write_bytes(content)
    frame = read_frame(path, 2.5)
    assert frame.shape == (96, 64, 3)
    assert frame[8:40].mean() == pytest.approx(gray(2), abs=4)  # left became top
    assert frame[56:].mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    """Pictures are read as RGB, and half a file is refused."""
    pixels = np.full((30, 50, 3), (200, 100, 50), np.uint8)
    path = tmp_path / f"p{suffix}"
    Image.fromarray(pixels).save(path)
    assert np.abs(read_frame(path, None).astype(int) - pixels).max() <= 2
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"p{suffix}: cannot read the picture"):
        read_frame(path, None)


def test_resizing_antialiases_and_squares() -> None:
    """Fine stripes become their mean; a frame of the right size is unchanged."""
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_frame(stripes, 16)
    assert small.shape == (16, 16, 3)
    assert np.abs(small.astype(int) - 127).max() <= 5
    np.testing.assert_array_equal(resize_frame(small, 16), small)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "the file is empty"), (b"not media at all" * 20, "cannot be decoded")],
)
@pytest.mark.parametrize("suffix", [".wav", ".mp4", ".ogg"])
def test_what_is_not_media_is_one_sentence_naming_the_file(
    tmp_path: Path, suffix: str, content: bytes | None, message: str
) -> None:
    """Whatever the file is, the error is one line with its name."""
    path = tmp_path / f"bad{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad{suffix}: {message}") as caught:
        read_audio(path, None, 1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_truncated_sound_is_refused(tmp_path: Path, suffix: str) -> None:
    """A sound file cut in half is an error, never a shorter sound."""
    path = tmp_path / f"cut{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 64000), 16000)
    read_audio(path, None, 3.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"cut{suffix}: (truncated|cannot be decoded)"):
        read_audio(path, None, 3.0)


def test_truncated_video_is_refused(video: Path, tmp_path: Path) -> None:
    """A video cut in half is an error for a frame and a sound that are not there."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.mp4: (truncated|cannot be decoded|holds no sound)"):
        read_audio(path, 4.0, 2.0)
    with pytest.raises(DataError, match=r"cut\.mp4: "):
        read_frame(path, 5.5)


def test_iterating_a_truncated_video_gives_what_is_there_and_says_what_is_not(video: Path, tmp_path: Path) -> None:
    """Half of the frames and of the sound come, and a sentence for each of the two."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    assert 15 < len(shots) < 45
    assert any("truncated, the picture ends at" in sentence for sentence in damage)
    damage.clear()
    windows = list(iter_audio(path, [0.5, 5.5], 0.6, 16000, damage))
    assert [window is None for window in windows] == [False, True]
    assert any("truncated, the sound ends at" in sentence for sentence in damage)


def test_damage_in_the_middle_is_passed_over_and_told(video: Path, tmp_path: Path) -> None:
    """Frames before and after broken bytes come at their times."""
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path = tmp_path / "scratched.mp4"
    path.write_bytes(content)
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    windows = list(iter_audio(path, [0.5, 5.5], 0.6, 16000, damage))
    assert any("damaged, the first at" in sentence for sentence in damage)
    for shot in (shots[0], shots[-1]):
        assert shot.pixels()[:, 8:40].mean() == pytest.approx(gray(int(shot.start_s)), abs=8)
    assert shots[-1].end_s == pytest.approx(6, abs=0.06)
    for second, window in zip((0, 5), windows, strict=True):
        assert window is not None
        assert pitch(window) == pytest.approx(300 + 200 * second, abs=3)


@pytest.mark.parametrize("leap", [7200, 20_000])
def test_a_leap_of_the_pictures_time_is_its_end(tmp_path: Path, leap: int) -> None:
    """A frame that is said to come, or to stay, hours later than the one before is damage, not a long shot."""
    path = tmp_path / "leap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for due in (0, 1, 2, leap):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            frame.pts = due
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    damage: list[str] = []
    shots = list(iter_shots(path, damage))
    assert [(shot.start_s, shot.end_s) for shot in shots] == [(0, 1), (1, 2), (2, 2)]
    assert damage[0] == "the picture is lost after 2.0 s, as its time leaps on by over an hour"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path, suffix: str) -> None:
    """A small file that would take gigabytes; the same of an array that only claims to be large."""
    path = tmp_path / f"bomb{suffix}"
    Image.new("1", (9000, 9000)).save(path, "PNG")
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match=rf"bomb\{suffix}: 9000 x 9000 pixels are more than"):
        read_frame(path, None)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    claim = tmp_path / "claim.npy"
    claim.write_bytes(header.ljust(127) + b"\n")
    with pytest.raises(DataError, match=r"claim\.npy: cannot read the array"):
        read_mask(claim, 8)


@pytest.mark.parametrize("rate", [44_099, 47_999, 127_997])
def test_odd_rates_are_resampled_in_little_memory(tmp_path: Path, rate: int) -> None:
    """Rates that share nothing with ours: a filter for every phase of them would take gigabytes."""
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(1, rate, 440), rate)
    tracemalloc.start()
    sound = read_audio(path, None, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sound.shape == (16000,)
    assert pitch(sound) == pytest.approx(440, abs=1)
    assert peak < 200e6


@pytest.mark.parametrize("rate", [0, 100, 10_000_000])
def test_rates_that_cannot_be_are_refused(tmp_path: Path, rate: int) -> None:
    """A damaged header is no reason to decode for minutes."""
    path = tmp_path / "rate.wav"
    soundfile.write(path, tone(1, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"rate\.wav: (states {rate} samples a second|cannot be decoded)"):
        read_audio(path, None, 1.0)


@pytest.mark.parametrize("name", ["a\nb.wav", "a\rb.wav", os.fsdecode(b"a\xff.wav")])
def test_a_name_that_is_no_line_of_text_is_refused(tmp_path: Path, name: str) -> None:
    """It could stand in no list and no table; the error shows it with escapes, on one line."""
    path = tmp_path / name
    soundfile.write(tmp_path / "a.wav", tone(1, 16000), 16000)
    (tmp_path / "a.wav").rename(path)
    with pytest.raises(DataError, match="the name is not UTF-8 or holds a control character") as caught:
        read_audio(path, None, 1.0)
    assert str(caught.value).isprintable()
    with pytest.raises(DataError, match="the name is not UTF-8 or holds a control character"):
        files_by_id(tmp_path, (".wav",))


def test_missing_streams_are_named(tmp_path: Path) -> None:
    """A video without sound, or a sound without video, says what it lacks."""
    mute = write_video(tmp_path / "mute.mp4", 1, None)
    with pytest.raises(DataError, match=r"mute\.mp4: has no audio stream"):
        read_audio(mute, None, 1.0)
    with pytest.raises(DataError, match=r"mute\.mp4: has no audio stream"):
        list(iter_audio(mute, [0.5], 1.0, 16000, []))
    blind = tmp_path / "blind.wav"
    soundfile.write(blind, tone(1, 16000), 16000)
    with pytest.raises(DataError, match=r"blind\.wav: has no video stream"):
        list(iter_shots(blind, []))


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN"), (0.0, "silent")])
def test_unusable_samples_are_refused(tmp_path: Path, value: float, message: str) -> None:
    """Silence, NaN and infinity are refused with the reason."""
    path, samples = tmp_path / "bad.wav", tone(1, 16000)
    if value == 0.0:
        samples[:] = 0
    samples[5000] = value
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=rf"bad\.wav: .*{message}"):
        read_audio(path, None, 1.0)


def test_real_clip(real_clips: Path) -> None:
    """A real clip gives a frame with content and a sound of the asked length."""
    path = sorted(real_clips.glob("*.mp4"))[0]
    assert read_frame(path, None).std() > 20
    sound = read_audio(path, None, 3.0)
    assert sound.shape == (48000,)
    assert 0.001 < np.abs(sound).max() <= 1.5
