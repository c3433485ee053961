"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, overload

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from avsl.data.errors import DataError, check_name

if TYPE_CHECKING:
    from av.container import InputContainer

SOUND_SUFFIXES = (".wav", ".ogg", ".flac", ".mp3")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# What may lie under these names, as downloads have it. Of the others that Pillow reads some run programs.
_PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

# How much earlier than its header says a stream may end before the file counts as cut off.
_CUT_OFF_S = 0.5
# Larger pictures and frames are refused before they are decoded: one of 8192 x 8192 takes some 0.8 GB on the way.
MAX_PIXELS = 2**26
# Rates outside are damage, and what is decoded in a time grows with them.
_MIN_RATE, _MAX_RATE = 1_000, 768_000  # Hz
# torchaudio filters with as many weights as the two rates' product divided by the square of what they share: 70,560
# from 44.1 to 16 kHz, but 700 million, gigabytes, from 44,099 Hz, which a damaged header may state. Beyond this many,
# SciPy's filter of a few weights a sample takes its place.
_MAX_KERNEL = 2**20
# No frame is on screen for longer; a damaged time stamp may say that one is for days.
_LONGEST_SHOT_S = 3600.0
# Time stamps of adjoining frames of sound are rounded, by a millisecond in Matroska; a larger step is a hole.
JITTER_S = 0.05


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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of a limit above ours
                picture = Image.open(path, formats=_PICTURE_FORMATS)
            with picture:
                _check_pixels(picture.width, picture.height, path)
                return np.array(picture.convert("RGB"))
        except DataError:
            raise
        except Exception as error:  # whatever Pillow's decoders raise for a damaged file
            raise DataError(f"{path}: cannot read the picture: {error}") from error
    with open_media(path) as container:
        stream = _video_stream(container, path)
        if time_s is None:
            time_s = _duration(container, path) / 2
        origin = origin_s(container)
        shown: av.VideoFrame | None = None
        for frame in _frames_around(container, stream, time_s + origin):
            if frame.time is None:
                continue
            if shown is not None and frame.time - origin > time_s:
                return _upright(shown)
            shown = frame
        if shown is None or _end(shown) - origin < time_s:
            raise DataError(f"{path}: has no frame at {time_s:.2f} s")
        return _upright(shown)


@dataclass(frozen=True)
class Shot:
    """A frame of a video and when it is on screen.

    Attributes:
        start_s: from when on, in seconds.
        end_s: until when.
        frame: as decoded.
    """

    start_s: float
    end_s: float
    frame: av.VideoFrame

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, upright."""
        return _upright(self.frame)


def iter_shots(path: Path, damage: list[str]) -> Iterator[Shot]:
    """Decode every frame of a video, in constant memory and one pass.

    What cannot be decoded is passed over. A frame is on screen until the next one; one that comes too late to be shown
    is left out.

    Args:
        path: any container with a video stream.
        damage: gets a sentence for whatever of the picture is missing or broken.

    Yields:
        The frames in order of time.

    Raises:
        DataError: the file is missing, empty, not media, or without a picture that can be decoded.
    """
    _check_file(path)
    with open_media(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        origin = origin_s(container)
        shown: av.VideoFrame | None = None
        beyond: float | None = None
        for frame in salvage(container, stream, "picture", damage):
            if frame.time is None or (shown is not None and frame.time <= shown.time):
                continue
            if shown is not None:
                if frame.time - shown.time > _LONGEST_SHOT_S:
                    beyond = frame.time
                    break
                yield Shot(shown.time - origin, frame.time - origin, shown)
            shown = frame
        if shown is None:
            raise DataError(f"{path}: the video stream holds no frame")
        start, end = shown.time, _end(shown) if beyond is None else beyond
        if end - start > _LONGEST_SHOT_S:
            damage.append(f"the picture is lost after {start - origin:.1f} s, as its time leaps on by over an hour")
            end = start
        yield Shot(start - origin, end - origin, shown)
        damage += _cut_off("picture", stream, end)
        # Matroska states the length of the whole alone, and that may be the sound's.
        whole = container.duration / av.time_base if container.duration and stream.duration is None else 0.0
        if end - origin < whole - _CUT_OFF_S:
            damage.append(f"the picture ends at {end - origin:.1f} s of {whole:.1f} s")


def iter_audio(
    path: Path, times: Iterable[float], duration_s: float, sample_rate: int, damage: list[str]
) -> Iterator[NDArray[np.float32] | None]:
    """Decode the sound around each of some times, in constant memory and one pass.

    Windows are moved into the recording at its ends, and tiled where it is shorter, as in :func:`read_audio`. What
    cannot be decoded is passed over and heard as silence.

    Args:
        path: any container with an audio stream.
        times: the windows' centres in seconds, ascending.
        duration_s: length of a window in seconds.
        sample_rate: of the result, in Hz.
        damage: gets a sentence for whatever of the sound is missing or broken.

    Yields:
        (round(duration_s * sample_rate),) samples; None in silence, and before and after the sound.

    Raises:
        DataError: the file is missing, empty, not media, or without a sound that can be decoded, or a window holds NaN
            or infinity.
    """
    _check_file(path)
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


def media_duration(path: Path) -> float | None:
    """Length in seconds that a container states; None where it states none (a raw stream).

    Raises:
        DataError: the file is missing, empty or not media.
    """
    _check_file(path)
    with open_media(path) as container:
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
            # Mapped: room for what the header states is taken only if the file holds it.
            array = np.load(path, allow_pickle=False, mmap_mode="r")
            if array.ndim != 2:
                raise DataError(f"{path}: the array has shape {array.shape}, not (height, width)")
            _check_pixels(array.shape[1], array.shape[0], path)
            mask = array != 0
        except DataError:
            raise
        except Exception as error:  # whatever NumPy's parser of headers raises for a damaged file
            raise DataError(f"{path}: cannot read the array: {error}") from error
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        mask = read_frame(path, None).any(axis=2)
    else:
        raise DataError(f"{path}: a mask is a picture or a .npy array, never a pickle: convert it first")
    resized = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def _check_file(path: Path) -> None:
    check_name(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def _check_pixels(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS}")


def _check_rate(rate: int, path: Path) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise DataError(f"{path}: states {rate} samples a second, not {_MIN_RATE} to {_MAX_RATE}")


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a container.

    Raises:
        DataError: in the block, for whatever FFmpeg cannot do.
    """
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded: {error.strerror}") from error


def origin_s(container: InputContainer) -> float:
    """The time stamp of a container's beginning, s: all times elsewhere count from there."""
    return (container.start_time or 0) / av.time_base


def _duration(container: InputContainer, path: Path) -> float:
    if not container.duration:
        raise DataError(f"{path}: states no length")
    return container.duration / av.time_base


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream")
    stream = container.streams.video[0]
    _check_pixels(stream.width, stream.height, path)
    # A stream may hold larger frames than its header states.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def sound_stream(container: InputContainer, path: Path) -> av.AudioStream:
    """The first sound track of a container.

    Raises:
        DataError: there is none.
    """
    if not container.streams.audio:
        raise DataError(f"{path}: has no audio stream")
    return container.streams.audio[0]


def _frames_around(container: InputContainer, stream: av.VideoStream, time: float) -> Iterator[av.VideoFrame]:
    """Decode from the key frame before ``time``, in the container's seconds, to the end.

    Of what comes before the frame on screen then, only frames that others are decoded from are: a quarter less work.
    """
    wanted = math.floor(time / stream.time_base) if stream.time_base else None
    early = 0.0
    while True:
        start = max(0.0, time - early)
        container.seek(math.floor(start * av.time_base))
        packets = container.demux(stream)
        ahead: list[av.Packet[av.VideoStream]] = []
        for packet in packets:
            ahead.append(packet)
            # No frame is shown before it is decoded: with this packet all that are shown by then have been seen.
            if wanted is None or packet.dts is None or packet.dts > wanted:
                break
        times = [packet.pts for packet in ahead if packet.pts is not None]
        shown = max((pts for pts in times if wanted is not None and pts <= wanted), default=None)
        # A key frame may be decoded before that time and shown after it: then it is the one before.
        if shown is not None or not times or start == 0:
            break
        early = 2 * early + 1
    for packet in chain(ahead, packets):
        passed_over = shown is not None and packet.pts is not None and packet.pts < shown
        stream.codec_context.skip_frame = "NONREF" if passed_over else "DEFAULT"
        yield from packet.decode()


def _end(frame: av.VideoFrame) -> float:
    return (frame.time or 0.0) + (float(frame.duration * frame.time_base) if frame.time_base else 0.0)


def _cut_off(what: str, stream: av.VideoStream | av.AudioStream, end: float) -> list[str]:
    """A truncated file just ends early; only the header still tells. A sentence if so."""
    if stream.duration is None or stream.time_base is None:
        return []
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return [f"truncated, the {what} ends at {end:.1f} s of {stated:.1f} s"] if end < stated - _CUT_OFF_S else []


@overload
def salvage(
    container: InputContainer, stream: av.VideoStream, what: str, damage: list[str]
) -> Iterator[av.VideoFrame]: ...


@overload
def salvage(
    container: InputContainer, stream: av.AudioStream, what: str, damage: list[str]
) -> Iterator[av.AudioFrame]: ...


def salvage(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, what: str, damage: list[str]
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Decode a stream, passing over what cannot be decoded; ``damage`` gets a sentence for that at the end."""
    origin, now = origin_s(container), 0.0
    first, count = 0.0, 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.error.FFmpegError as error:
            damage.append(f"cannot be read beyond {now:.1f} s: {error.strerror}")
            break
        if packet.pts is not None and stream.time_base is not None:
            now = float(packet.pts * stream.time_base) - origin
        try:
            frames = [frame for frame in packet.decode() if isinstance(frame, (av.VideoFrame, av.AudioFrame))]
        except av.error.FFmpegError:
            frames, faulty = [], True
        else:
            faulty = packet.is_corrupt or any(frame.is_corrupt for frame in frames)
        if faulty:
            first = first if count else now
            count += 1
        yield from frames
    if count:
        damage.append(f"{count} packets of the {what} are damaged, the first at {first:.1f} s")


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB, turned as the file's display matrix says (cameras held sideways)."""
    # One thread: there is a process for every core already, and the pool takes longer to start than a frame.
    pixels: NDArray[np.uint8] = frame.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


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
            latest = max(0.0, _duration(container, path) - duration_s)
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
    for sentence in _cut_off("sound", stream, end + origin):
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
