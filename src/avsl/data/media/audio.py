"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from avsl.data.media.checks import check_file
from avsl.data.media.container import (
    JITTER_S,
    cut_off,
    duration,
    open_media,
    origin_s,
    salvage,
    sound_stream,
)
from avsl.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

SOUND_SUFFIXES = (".wav", ".ogg", ".flac", ".mp3")


# torchaudio filters with as many weights as the two rates' product divided by the square of what they share: 70,560
# from 44.1 to 16 kHz, but 700 million, gigabytes, from 44,099 Hz, which a damaged header may state. Beyond this many,
# SciPy's filter of a few weights a sample takes its place.
_MAX_KERNEL = 2**20
# Sample rates outside this range are damage; the decoding time grows with the rate.
_MIN_RATE, _MAX_RATE = 1_000, 768_000  # Hz


def read_audio(path: Path, start_s: float | None, duration_s: float, sample_rate: int = 16000) -> NDArray[np.float32]:
    """Decode a window of sound, mixed down to mono.

    The window is moved into the recording where it reaches over an end; a recording shorter than the window is
    tiled.

    Args:
        path: wav, flac, ogg or mp3, or any container with an audio stream.
        start_s: where the window starts, in seconds; None centers it in the recording.
        duration_s: length of the window in seconds.
        sample_rate: of the result, in Hz.

    Returns:
        (round(duration_s * sample_rate),) samples.

    Raises:
        DataError: the file is missing, empty, truncated, not media, has no sound, or the window holds NaN,
            infinity or nothing but zeros.
    """
    check_file(path)
    if path.suffix.lower() in SOUND_SUFFIXES:
        samples, rate = _read_sound_file(path, start_s, duration_s)
    else:
        samples, rate = _read_sound_track(path, start_s, duration_s)
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: the sound holds NaN or infinite samples")
    if not samples.any():
        raise DataError(f"{path}: the sound is silent")
    return _window(samples, rate, duration_s, sample_rate)


def iter_audio(
    path: Path, times: Iterable[float], duration_s: float, sample_rate: int, damage: list[str]
) -> Iterator[NDArray[np.float32] | None]:
    """Decode the sound around each of some times, in constant memory and one pass.

    Windows are moved into the recording at its ends, and tiled where it is shorter, as in :func:`read_audio`. What
    cannot be decoded is passed over and heard as silence.

    Args:
        path: any container with an audio stream.
        times: the windows' centers in seconds, ascending.
        duration_s: length of a window in seconds.
        sample_rate: of the result, in Hz.
        damage: gets a sentence for whatever of the sound is missing or broken.

    Yields:
        (round(duration_s * sample_rate),) samples; None in silence, and before and after the sound.

    Raises:
        DataError: the file is missing, empty, not media, or without a sound that can be decoded, or a window holds NaN
            or infinity.
    """
    check_file(path)
    with open_media(path) as container:
        chunks = _sound_chunks(container, path, 0.0, damage)
        start, rate, chunk = next(chunks)
        held, first = chunk, round(start * rate)  # `held` starts at sample `first` of the container's time
        begin, length = first, round(duration_s * rate)
        ended = False
        for time in times:
            wanted = max(round(time * rate) - length // 2, first)
            while not ended and first + len(held) < wanted + length:
                parts, end = [held], first + len(held)
                for start, _, chunk in chunks:
                    gap = round((start - end / rate) * rate)
                    if gap > JITTER_S * rate:
                        # A hole in the sound is silence; all of a long one need not be held.
                        parts.append(np.zeros(min(gap, length), np.float32))
                        if gap > length:
                            parts, first = parts[-1:], end + gap - length
                        end += gap
                    parts.append(chunk)
                    end += len(chunk)
                    if end >= wanted + length:
                        break
                else:
                    ended = True
                held = np.concatenate(parts)
            if not begin <= time * rate <= first + len(held):
                yield None
                continue
            keep = min(max(wanted - first, 0), max(len(held) - length, 0))
            held, first = held[keep:], first + keep
            window = held[:length]
            if not np.isfinite(window).all():
                raise DataError(f"{path}: the sound holds NaN or infinite samples around {time:.2f} s")
            yield _window(window, rate, duration_s, sample_rate) if window.any() else None


def _check_rate(rate: int, path: Path) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise DataError(f"{path}: states {rate} samples a second, not {_MIN_RATE} to {_MAX_RATE}")


def _read_sound_file(path: Path, start_s: float | None, duration_s: float) -> tuple[NDArray[np.float32], int]:
    try:
        with soundfile.SoundFile(path) as sound:
            rate, total = sound.samplerate, sound.frames
            _check_rate(rate, path)
            length = math.ceil(duration_s * rate)
            start = (total - length) // 2 if start_s is None else round(start_s * rate)
            start = max(0, min(start, total - length))
            sound.seek(start)
            samples = sound.read(length, dtype="float32", always_2d=True)
            # libsndfile shortens a cut-off wav to what is there and only notes it.
            cut_off = len(samples) < min(length, total) or "should be" in sound.extra_info
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from error
    if cut_off or (path.suffix.lower() == ".ogg" and _ogg_is_cut_off(path)):
        raise DataError(f"{path}: truncated, the sound ends earlier than the file says")
    if not len(samples):
        raise DataError(f"{path}: holds no sound")
    return samples.mean(axis=1), rate


def _ogg_is_cut_off(path: Path) -> bool:
    """Whether the last page is incomplete or not marked as the end of the stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * 65307))  # a page has at most 65,307 bytes
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _read_sound_track(path: Path, start_s: float | None, duration_s: float) -> tuple[NDArray[np.float32], int]:
    with open_media(path) as container:
        if container.duration or start_s is None:
            latest = max(0.0, duration(container, path) - duration_s)
            start_s = latest / 2 if start_s is None else min(start_s, latest)
        start_s = max(0.0, start_s or 0.0)
        parts: list[NDArray[np.float32]] = []
        held, length, rate, first = 0, 0, 1, 0.0
        for time, rate, chunk in _sound_chunks(container, path, start_s):
            if not parts:
                first, length = time, math.ceil(duration_s * rate)
            parts.append(chunk)
            held += len(chunk)
            if first + held / rate >= max(first, start_s) + duration_s:
                break
        else:
            if start_s > 0 and (held < length or not parts):
                return _end_of_sound_track(path, duration_s)
    if not parts:
        raise DataError(f"{path}: holds no sound")
    skip = max(0, min(round((start_s - first) * rate), held - length))
    return np.concatenate(parts)[skip : skip + length], rate


def _end_of_sound_track(path: Path, duration_s: float) -> tuple[NDArray[np.float32], int]:
    """The last samples of a track that ends before its container does: only decoding finds where."""
    parts: deque[NDArray[np.float32]] = deque()
    held, length, rate = 0, 0, 1
    with open_media(path) as container:
        for _, rate, chunk in _sound_chunks(container, path, 0.0):
            length = math.ceil(duration_s * rate)
            parts.append(chunk)
            held += len(chunk)
            while held - len(parts[0]) >= length:
                held -= len(parts.popleft())
    if not parts:
        raise DataError(f"{path}: holds no sound")
    return np.concatenate(parts)[-length:], rate


def _sound_chunks(
    container: InputContainer, path: Path, start_s: float, damage: list[str] | None = None
) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Start in seconds, rate in Hz and mono samples of each decoded frame that ends after ``start_s``.

    Raises:
        DataError: there is no audio stream, or all of it holds nothing, or, where there is no list for ``damage``, it
            ends earlier than its header says.
    """
    stream = sound_stream(container, path)
    origin = origin_s(container)
    if start_s > 0:
        # A little early: some decoders need packets before the wanted one to settle.
        container.seek(math.floor((max(0.0, start_s - 0.2) + origin) * av.time_base))
    to_float = av.AudioResampler(format="fltp")  # keeps layout and rate
    end: float | None = None
    frames = container.decode(stream) if damage is None else salvage(container, stream, "sound", damage)
    for decoded in frames:
        _check_rate(decoded.sample_rate, path)
        for frame in to_float.resample(decoded):
            time = (frame.time if frame.time is not None else (end or 0.0) + origin) - origin
            end = time + frame.samples / frame.sample_rate
            if end > start_s:
                yield time, frame.sample_rate, frame.to_ndarray().mean(axis=0, dtype=np.float32)
    if end is None:
        if start_s > 0:
            return
        raise DataError(f"{path}: holds no sound")
    for sentence in cut_off("sound", stream, end + origin):
        if damage is None:
            raise DataError(f"{path}: {sentence}")
        damage.append(sentence)


def _window(samples: NDArray[np.float32], rate: int, duration_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Resample and bring to the exact length: tiled where short, cut where long."""
    common = math.gcd(rate, sample_rate)
    if rate * sample_rate > _MAX_KERNEL * common**2:
        from scipy.signal import resample_poly

        samples = resample_poly(samples, sample_rate // common, rate // common)
    elif rate != sample_rate:
        # torchaudio takes a second to import and most prepared media need no resampling.
        import torch
        from torchaudio.functional import resample

        samples = resample(torch.from_numpy(samples), rate, sample_rate).numpy()
    length = round(duration_s * sample_rate)
    return np.resize(samples, length) if len(samples) < length else samples[:length]
