"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from avsl.data.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

SOUND_SUFFIXES = (".wav", ".ogg", ".flac", ".mp3")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# How much earlier than its header says a stream may end before the file counts as cut off.
_CUT_OFF_S = 0.5


def read_audio(path: Path, start_s: float | None, duration_s: float, sample_rate: int = 16000) -> NDArray[np.float32]:
    """Decode a window of sound, mixed down to mono.

    The window is moved into the recording where it reaches over an end; a recording shorter than the window is
    tiled.

    Args:
        path: wav, flac, ogg or mp3, or any container with an audio stream.
        start_s: where the window starts, in seconds; None centres it in the recording.
        duration_s: length of the window in seconds.
        sample_rate: of the result, in Hz.

    Returns:
        (round(duration_s * sample_rate),) samples.

    Raises:
        DataError: the file is missing, empty, truncated, not media, has no sound, or the window holds NaN,
            infinity or nothing but zeros.
    """
    _check_file(path)
    if path.suffix.lower() in SOUND_SUFFIXES:
        samples, rate = _read_sound_file(path, start_s, duration_s)
    else:
        samples, rate = _read_sound_track(path, start_s, duration_s)
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: the sound holds NaN or infinite samples")
    if not samples.any():
        raise DataError(f"{path}: the sound is silent")
    return _window(samples, rate, duration_s, sample_rate)


def read_frame(path: Path, time_s: float | None) -> NDArray[np.uint8]:
    """Decode one picture.

    Args:
        path: jpg or png, or any container with a video stream.
        time_s: the frame on screen at that time, in seconds; None is the middle. A picture has no time.

    Returns:
        (H, W, 3) RGB, upright.

    Raises:
        DataError: the file is missing, empty, truncated, not media, or ends before ``time_s``.
    """
    _check_file(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        try:
            with Image.open(path) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: cannot read the picture: {error}") from error
    with _opened(path) as container:
        stream = _video_stream(container, path)
        if time_s is None:
            time_s = _duration(container, path) / 2
        origin = _origin(container)
        container.seek(math.floor((time_s + origin) * av.time_base))
        shown: av.VideoFrame | None = None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if shown is not None and frame.time - origin > time_s:
                return _upright(shown)
            shown = frame
        if shown is None or _end(shown) - origin < time_s:
            raise DataError(f"{path}: has no frame at {time_s:.2f} s")
        return _upright(shown)


def iter_video(path: Path, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode a video in constant memory, a frame for the middle of every 1/fps seconds.

    A video shorter than that gives its last frame.

    Yields:
        The time in seconds and the (H, W, 3) RGB frame on screen then.

    Raises:
        DataError: the file is missing, empty, truncated, not media or without a picture.
    """
    _check_file(path)
    with _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        origin = _origin(container)
        count, shown = 0, None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            while shown is not None and (count + 0.5) / fps < frame.time - origin:
                yield (count + 0.5) / fps, _upright(shown)
                count += 1
            shown = frame
        if shown is None:
            raise DataError(f"{path}: the video stream holds no frame")
        end = _end(shown) - origin
        while (count + 0.5) / fps < end:
            yield (count + 0.5) / fps, _upright(shown)
            count += 1
        if count == 0:
            yield end / 2, _upright(shown)
        _check_end(path, "picture", stream, _end(shown))


def iter_audio(
    path: Path, times: Iterable[float], duration_s: float, sample_rate: int = 16000
) -> Iterator[NDArray[np.float32] | None]:
    """Decode the sound around each of some times, in constant memory and one pass.

    Windows are moved into the recording at its ends, and tiled where it is shorter, as in :func:`read_audio`.

    Args:
        path: any container with an audio stream.
        times: the windows' centres in seconds, ascending.
        duration_s: length of a window in seconds.
        sample_rate: of the result, in Hz.

    Yields:
        (round(duration_s * sample_rate),) samples; None where there is silence or the sound has ended.

    Raises:
        DataError: as :func:`read_audio`.
    """
    _check_file(path)
    with _opened(path) as container:
        chunks = _sound_chunks(container, path, 0.0)
        start, rate, chunk = next(chunks)
        held, first = chunk, round(start * rate)  # `held` starts at sample `first` of the container's time
        length = round(duration_s * rate)
        ended = False
        for time in times:
            wanted = max(round(time * rate) - length // 2, first)
            while not ended and first + len(held) < wanted + length:
                parts, missing = [held], wanted + length - first - len(held)
                for _, _, chunk in chunks:
                    parts.append(chunk)
                    missing -= len(chunk)
                    if missing <= 0:
                        break
                else:
                    ended = True
                held = np.concatenate(parts)
            if time * rate > first + len(held):
                yield None
                continue
            keep = min(max(wanted - first, 0), max(len(held) - length, 0))
            held, first = held[keep:], first + keep
            window = held[:length]
            if not np.isfinite(window).all():
                raise DataError(f"{path}: the sound holds NaN or infinite samples around {time:.2f} s")
            yield _window(window, rate, duration_s, sample_rate) if window.any() else None


def media_duration(path: Path) -> float | None:
    """Length in seconds that a container states; None where it states none (a raw stream).

    Raises:
        DataError: the file is missing, empty or not media.
    """
    _check_file(path)
    with _opened(path) as container:
        return container.duration / av.time_base if container.duration else None


def resize_frame(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square (boxes are fractions, so they stay), bilinear with antialiasing.

    Args:
        frame: (H, W, 3).
        size: side in pixels.

    Returns:
        (size, size, 3).
    """
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, size: int) -> NDArray[np.bool_]:
    """Read a mask: what is not zero (black) in a picture or in a NumPy array.

    Args:
        path: jpg, png, or npy with two dimensions.
        size: side of the result in pixels; resized to the nearest pixel.

    Returns:
        (size, size).

    Raises:
        DataError: the file is missing, empty, truncated, a pickle or no mask.
    """
    _check_file(path)
    if path.suffix.lower() == ".npy":
        try:
            mask = np.load(path, allow_pickle=False) != 0
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path}: cannot read the array: {error}") from error
        if mask.ndim != 2:
            raise DataError(f"{path}: the array has shape {mask.shape}, not (height, width)")
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        mask = read_frame(path, None).any(axis=2)
    else:
        raise DataError(f"{path}: a mask is a picture or a .npy array, never a pickle: convert it first")
    resized = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded: {error.strerror}") from error


def _origin(container: InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def _duration(container: InputContainer, path: Path) -> float:
    if not container.duration:
        raise DataError(f"{path}: states no length")
    return container.duration / av.time_base


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream")
    return container.streams.video[0]


def _end(frame: av.VideoFrame) -> float:
    return (frame.time or 0.0) + (float(frame.duration * frame.time_base) if frame.time_base else 0.0)


def _check_end(path: Path, what: str, stream: av.VideoStream | av.AudioStream, end: float) -> None:
    """A truncated file just ends early; only the header still tells."""
    if stream.duration is None or stream.time_base is None:
        return
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if end < stated - _CUT_OFF_S:
        raise DataError(f"{path}: truncated, the {what} ends at {end:.1f} s of {stated:.1f} s")


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB, turned as the file's display matrix says (cameras held sideways)."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _read_sound_file(path: Path, start_s: float | None, duration_s: float) -> tuple[NDArray[np.float32], int]:
    try:
        with soundfile.SoundFile(path) as sound:
            rate, total = sound.samplerate, sound.frames
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
    with _opened(path) as container:
        if container.duration or start_s is None:
            latest = max(0.0, _duration(container, path) - duration_s)
            start_s = latest / 2 if start_s is None else min(start_s, latest)
        start_s = max(0.0, start_s or 0.0)
        parts: list[NDArray[np.float32]] = []
        held, rate, first = 0, 1, 0.0
        for time, rate, chunk in _sound_chunks(container, path, start_s):
            if not parts:
                first = time
            parts.append(chunk)
            held += len(chunk)
            if first + held / rate >= start_s + duration_s:
                break
    samples = np.concatenate(parts)
    skip = max(0, min(round((start_s - first) * rate), len(samples) - math.ceil(duration_s * rate)))
    return samples[skip : skip + math.ceil(duration_s * rate)], rate


def _sound_chunks(
    container: InputContainer, path: Path, start_s: float
) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Start in seconds, rate in Hz and mono samples of each decoded frame that ends after ``start_s``.

    Raises:
        DataError: there is no audio stream, or it holds nothing, or it ends earlier than its header says.
    """
    if not container.streams.audio:
        raise DataError(f"{path}: has no audio stream")
    stream = container.streams.audio[0]
    origin = _origin(container)
    if start_s > 0:
        # A little early: some decoders need packets before the wanted one to settle.
        container.seek(math.floor((max(0.0, start_s - 0.2) + origin) * av.time_base))
    to_float = av.AudioResampler(format="fltp")  # keeps layout and rate
    end: float | None = None
    for decoded in container.decode(stream):
        for frame in to_float.resample(decoded):
            time = (frame.time if frame.time is not None else (end or 0.0) + origin) - origin
            end = time + frame.samples / frame.sample_rate
            if end > start_s:
                yield time, frame.sample_rate, frame.to_ndarray().mean(axis=0, dtype=np.float32)
    if end is None:
        raise DataError(f"{path}: has no sound at {start_s:.2f} s")
    _check_end(path, "sound", stream, end + origin)


def _window(samples: NDArray[np.float32], rate: int, duration_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Resample and bring to the exact length: tiled where short, cut where long."""
    if rate != sample_rate:
        # torchaudio takes a second to import and most prepared media need no resampling.
        import torch
        from torchaudio.functional import resample

        samples = resample(torch.from_numpy(samples), rate, sample_rate).numpy()
    length = round(duration_s * sample_rate)
    return np.resize(samples, length) if len(samples) < length else samples[:length]
