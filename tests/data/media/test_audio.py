"""Which sound plays at a time, against sounds whose pitch tells the second."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from tests.fixtures.media import WriteMedia, pitch, rising, tone
from tests.fixtures.messages import facts
from tests.fixtures.reference import find_shared

from avsl.data.listing import files_by_id
from avsl.data.media.audio import decode_sound, iter_audio, read_audio, scale_into_range
from avsl.errors import DataError


def decode_all(path: Path, sample_rate: int = 16000) -> NDArray[np.float32]:
    """The whole of an encoded sound."""
    return decode_sound(path.read_bytes(), sample_rate, lambda *_: None)[0]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_audio_is_resampled_mixed_down_and_cut_at_the_asked_time(tmp_path: Path, suffix: str) -> None:
    """A window holds the pitch at its time, mono at 16 kHz, with its level kept."""
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
    np.testing.assert_array_equal(read_audio(path, 1.4, 1.0), samples[16000:])
    np.testing.assert_array_equal(read_audio(path, -0.4, 1.0), samples[:16000])


def test_short_audio_is_tiled(tmp_path: Path) -> None:
    """A sound shorter than the window is repeated."""
    path, samples = tmp_path / "a.wav", tone(0.3, 16000)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    for start in (None, -0.3):
        np.testing.assert_array_equal(read_audio(path, start, 1.0), np.concatenate([samples] * 4)[:16000])


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "aac"),
        ("a.mp4", "ac3"),
        ("a.mov", "alac"),
        ("a.mkv", "flac"),
        ("a.mkv", "libopus"),
        ("a.mkv", "tta"),
        ("a.webm", "libopus"),
        ("a.ts", "aac"),
        ("a.ts", "mp2"),
        ("a.avi", "libmp3lame"),
        ("a.avi", "adpcm_ms"),
        ("a.mpg", "mp2"),
        ("a.flv", "aac"),
        ("a.m4a", "aac"),
    ],
)
def test_the_sound_of_a_time_is_one_in_all_containers(
    tmp_path: Path, write_media: WriteMedia, name: str, codec: str
) -> None:
    """Read alone from the middle, or with all others in one pass, it is that of its second."""
    picture = {".webm": "libvpx", ".flv": "libx264", ".m4a": None}.get(Path(name).suffix, "mpeg4")
    path = write_media(
        tmp_path / name,
        picture=picture,
        sound=codec,
        samples=rising(12, 48000),
        frames=[k / 10 for k in range(120)],
        container_format="mp4" if picture is None else None,
    )
    times = [0.6, 1.5, 4.5, 8.5, 11.4]
    for time, together in zip(times, iter_audio(path, times, 0.8, 16000, []), strict=True):
        alone = read_audio(path, time - 0.4, 0.8)
        assert together is not None
        assert pitch(alone) == pytest.approx(300 + 200 * int(time), abs=3)
        # Matroska and FLV round time stamps to a millisecond: beside whole samples, up to half of one is left.
        shifts = [np.abs(alone[20:-20] - together[20 + k : len(together) - 20 + k]).max() for k in range(-17, 18)]
        half_sample = np.abs(alone).max() * np.pi * (300 + 200 * int(time)) / 16000
        assert min(shifts) <= (half_sample if path.suffix in (".mkv", ".flv") else 1e-3), f"at {time}"


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize(("sound_s", "picture_s"), [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0), (63.0, 60.0)])
def test_what_has_no_sound_at_a_time_has_none(
    tmp_path: Path, write_media: WriteMedia, suffix: str, sound_s: float, picture_s: float
) -> None:
    """A sound that begins or ends elsewhere than the picture: refused in preparation where `localize` hears none."""
    path = write_media(
        tmp_path / f"a{suffix}", samples=rising(4, 48000), frames=[k / 5 for k in range(50)],
        sound_s=sound_s, picture_s=picture_s,
    )  # fmt: skip
    begin = max(0.0, sound_s - picture_s)
    times = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]
    for time, heard in zip(times, iter_audio(path, times, 0.6, 16000, []), strict=True):
        if begin <= time <= begin + 4:
            assert heard is not None
            for window in (heard, read_audio(path, time - 0.3, 0.6)):
                assert pitch(window) == pytest.approx(300 + 200 * int(time - begin), abs=3)
        else:
            assert heard is None
            with pytest.raises(DataError, match=facts(f"a{suffix} {time:.2f}")):
                read_audio(path, time - 0.3, 0.6)


def test_a_window_over_an_end_is_moved_into_the_sound(tmp_path: Path, write_media: WriteMedia) -> None:
    """Three seconds around a time near the end are the last three of the sound, unspliced."""
    path = write_media(tmp_path / "a.mp4", samples=rising(5, 48000), frames=[k / 10 for k in range(100)])
    for start, first in ((3.4, 2), (-1.4, 0)):
        (together,) = iter_audio(path, [start + 1.5], 3.0, 16000, [])
        for window in (together, read_audio(path, start, 3.0)):
            assert window is not None
            for k in range(3):
                middle = window[16000 * k + 3000 : 16000 * k + 13000]
                assert pitch(middle) == pytest.approx(300 + 200 * (first + k), abs=3)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "flac"), ("a.mkv", "libopus"), ("a.mp4", "aac"), ("a.ts", "aac")]
)
@pytest.mark.parametrize("length", [1.0, 20.0])
def test_a_hole_in_the_sound_is_silence_and_moves_nothing(
    tmp_path: Path, write_media: WriteMedia, name: str, codec: str, length: float
) -> None:
    """After missing packets the sound keeps its time, for a window in the hole, over its edge and after it."""
    seconds = int(length) + 5
    path = write_media(
        tmp_path / name, sound=codec, samples=rising(seconds, 48000), frames=[k / 5 for k in range(5 * seconds)],
        hole=(2.0, 2.0 + length),
    )  # fmt: skip
    times = [1.5, 2.0 + length / 2, 2.0 + length, 3.5 + length]
    before, inside, edge, after = iter_audio(path, times, 0.8, 16000, [])
    assert inside is None
    with pytest.raises(DataError, match="silent"):
        read_audio(path, times[1] - 0.4, 0.8)
    for time, heard in ((times[0], before), (times[3], after)):
        for window in (heard, read_audio(path, time - 0.4, 0.8)):
            assert window is not None
            assert pitch(window) == pytest.approx(300 + 200 * int(time), abs=4)
    for window in (edge, read_audio(path, times[2] - 0.4, 0.8)):
        assert window is not None
        assert np.abs(window[:5000]).max() < 0.02
        assert np.abs(window[8000:]).max() > 0.3


def test_windows_are_asked_for_one_by_one(video: Path) -> None:
    """Sound is decoded in step with the times."""
    asked: list[int] = []

    def times() -> Iterator[float]:
        for second in range(6):
            asked.append(second)
            yield second + 0.5

    for second, window in enumerate(iter_audio(video, times(), 0.6, 16000, [])):
        assert asked[-1] == second
        assert window is not None
        assert pitch(window) == pytest.approx(300 + 200 * second, abs=3)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_training_and_serving_hear_the_same(tmp_path: Path, rate: int, suffix: str) -> None:
    """The window that is prepared is that of the whole sound, decoded and resampled as the server does."""
    path = tmp_path / f"a{suffix}"
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, int(2.3 * rate))) / rate) * 0.4
    soundfile.write(path, np.stack([sweep, sweep / 2], axis=1), rate)
    served = decode_all(path)
    start = (len(served) - 16000) // 2
    np.testing.assert_allclose(read_audio(path, None, 1.0), served[start : start + 16000], atol=1e-6)
    if suffix != ".ogg":  # the decoder of Vorbis begins a part of a packet late
        np.testing.assert_allclose(read_audio(path, 0.5, 1.0), served[8000:24000], atol=1e-6)


@pytest.mark.parametrize("second", [-1.0, -0.9])
def test_channels_that_cancel_leave_the_loudest(tmp_path: Path, second: float) -> None:
    """Stereo in opposite phase is no silence, in a file, in a track, in one pass and on the server."""
    samples = np.stack([tone(2, 16000), second * tone(2, 16000)], axis=1)
    path = tmp_path / "opposite.wav"
    soundfile.write(path, samples, 16000)
    (together,) = iter_audio(path, [1.0], 1.0, 16000, [])
    for heard in (read_audio(path, None, 1.0), decode_all(path), together):
        assert heard is not None
        assert np.abs(heard).max() == pytest.approx(0.5, abs=0.01)
    soundfile.write(path, np.stack([tone(2, 16000), 0 * tone(2, 16000)], axis=1), 16000)
    assert np.abs(read_audio(path, None, 1.0)).max() == pytest.approx(0.25, abs=0.01)  # others are averaged


@pytest.mark.parametrize("codec", ["ac3", "aac", "libmp3lame", "libopus", "mp2", "flac"])
def test_a_muted_track_is_silent(tmp_path: Path, write_media: WriteMedia, codec: str) -> None:
    """Lossy codecs make a muted track not quite zero."""
    rng = np.random.default_rng(0)
    nearly = (rng.standard_normal((1, 6 * 48000)) * 1e-5).astype(np.float32)
    for samples in (np.zeros((1, 6 * 48000), np.float32), nearly):
        path = write_media(tmp_path / "muted.mkv", sound=codec, samples=samples)
        with pytest.raises(DataError, match=r"muted\.mkv: .*silent"):
            read_audio(path, 2.0, 1.0)
        assert list(iter_audio(path, [2.5], 1.0, 16000, [])) == [None]


@pytest.mark.parametrize(
    ("amplitude", "silence_db", "silent"),
    [(1.3e-5, -60, True), (1.3e-5, -200, True), (4e-4, -60, True), (4e-4, -80, False), (4e-3, -60, False)],
)
def test_silence_is_a_level_that_can_be_set(tmp_path: Path, amplitude: float, silence_db: float, silent: bool) -> None:
    """24 bits hold what 16 do not; the lowest level still refuses what would be stored as zeros."""
    path = tmp_path / "quiet.wav"
    soundfile.write(path, 2 * amplitude * tone(1, 16000), 16000, subtype="PCM_24")
    if silent:
        with pytest.raises(DataError, match="silent"):
            read_audio(path, None, 1.0, silence_db=silence_db)
    else:
        heard = read_audio(path, None, 1.0, silence_db=silence_db)
        assert np.abs(heard).max() == pytest.approx(amplitude, rel=0.05)


def test_what_is_louder_than_full_scale_is_scaled() -> None:
    """Its shape stays; what is not louder is left as it is."""
    loud = 6 * tone(1, 16000)
    scaled, louder = scale_into_range(loud)
    assert louder
    np.testing.assert_allclose(scaled, loud / np.abs(loud).max(), atol=1e-6)
    for quiet in (tone(1, 16000), np.ones(3, np.float32)):
        same, louder = scale_into_range(quiet)
        assert not louder
        np.testing.assert_array_equal(same, quiet)


def _with_sizes(content: bytes, riff: int, data: int) -> bytes:
    place = content.index(b"data") + 4
    changed = bytearray(content)
    changed[4:8], changed[place : place + 4] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 44, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    """Who writes into a pipe cannot state a size; the sound is all there, also on the server."""
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(3, 16000), 16000)
    expected = read_audio(path, None, 1.0)
    path.write_bytes(_with_sizes(path.read_bytes(), min(size + 36, 0xFFFFFFFF), size))
    np.testing.assert_array_equal(read_audio(path, None, 1.0), expected)
    assert len(decode_all(path)) == 48000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".m4a", ".mp3"])
def test_truncated_sound_is_refused(tmp_path: Path, write_media: WriteMedia, suffix: str) -> None:
    """A sound file cut in half is an error, never a shorter sound; on the server too."""
    path = tmp_path / f"cut{suffix}"
    if suffix == ".m4a":
        write_media(path, picture=None, container_format="mp4")
    else:
        soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 64000), 16000)
    read_audio(path, None, 3.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\{suffix}: "):
        read_audio(path, None, 1.0)
    with pytest.raises(DataError):
        decode_all(path)


def test_iterating_a_truncated_sound_gives_what_is_there_and_says_what_is_not(
    tmp_path: Path, write_media: WriteMedia
) -> None:
    """None comes of what is gone, with a sentence."""
    path = write_media(tmp_path / "cut.mkv", sound="flac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damage: list[str] = []
    windows = list(iter_audio(path, [0.5, 5.5], 0.6, 16000, damage))
    assert [window is None for window in windows] == [False, True]
    assert any("truncated" in sentence and "sound" in sentence for sentence in damage)


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
    with pytest.raises(DataError, match=r"rate\.wav: "):
        read_audio(path, None, 1.0)


@pytest.mark.parametrize("name", ["a\nb.wav", "a\rb.wav", os.fsdecode(b"a\xff.wav")])
def test_a_name_that_is_no_line_of_text_is_refused(tmp_path: Path, name: str) -> None:
    """It could stand in no list and no table; the error shows it with escapes, on one line."""
    path = tmp_path / name
    soundfile.write(tmp_path / "a.wav", tone(1, 16000), 16000)
    (tmp_path / "a.wav").rename(path)
    reads: list[Callable[[], object]] = [lambda: read_audio(path, None, 1.0), lambda: files_by_id(tmp_path, (".wav",))]
    for read in reads:
        with pytest.raises(DataError, match="name") as caught:
            read()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "file"), (b"", "empty"), (b"not media at all" * 20, "decoded")],
)
@pytest.mark.parametrize("suffix", [".wav", ".mp4", ".ogg"])
def test_what_is_not_media_is_one_sentence_naming_the_file(
    tmp_path: Path, suffix: str, content: bytes | None, message: str
) -> None:
    """Whatever the file is, the error is one line with its name."""
    path = tmp_path / f"bad{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=facts(f"bad{suffix}", message)) as caught:
        read_audio(path, None, 1.0)
    assert "\n" not in str(caught.value)


def test_a_server_decodes_no_other_containers(tmp_path: Path, write_media: WriteMedia) -> None:
    """FFmpeg knows playlists, which name files: none of them, and no video, gets to it."""
    playlist = b"ffconcat version 1.0\nfile /etc/hostname\n"
    other = io.BytesIO(write_media(tmp_path / "a.mp4").read_bytes()).getvalue()
    for content in (playlist, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", other, b""):
        with pytest.raises(DataError):
            decode_sound(content, 16000, lambda *_: None)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN")])
def test_unusable_samples_are_refused(tmp_path: Path, value: float, message: str) -> None:
    """NaN and infinity are refused with the reason."""
    path, samples = tmp_path / "bad.wav", tone(1, 16000)
    samples[5000] = value
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=rf"bad\.wav: .*{message}"):
        read_audio(path, None, 1.0)


def test_real_clip() -> None:
    """A real clip gives a sound of the asked length."""
    sound = read_audio(sorted(find_shared("clips").glob("*.mp4"))[0], None, 3.0)
    assert sound.shape == (48000,)
    assert 0.001 < np.abs(sound).max() <= 1.5
