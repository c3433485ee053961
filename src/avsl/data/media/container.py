"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, overload

import av

from avsl.data.media.checks import MAX_PIXELS, check_file, check_pixels
from avsl.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

# How much earlier than its header says a stream may end before the file counts as cut off.
CUT_OFF_S = 0.5


# Time stamps of adjoining frames of sound are rounded, by a millisecond in Matroska; a larger step is a hole.
JITTER_S = 0.05


def media_duration(path: Path) -> float | None:
    """Length in seconds that a container states; None where it states none (a raw stream).

    Raises:
        DataError: the file is missing, empty or not media.
    """
    check_file(path)
    with open_media(path) as container:
        return container.duration / av.time_base if container.duration else None


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


def duration(container: InputContainer, path: Path) -> float:
    """Length that the container states, s.

    Raises:
        DataError: it states none.
    """
    if not container.duration:
        raise DataError(f"{path}: states no length")
    return container.duration / av.time_base


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The video stream of a container.

    Raises:
        DataError: there is none, or its frames are too large.
    """
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream")
    stream = container.streams.video[0]
    check_pixels(stream.width, stream.height, path)
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


def cut_off(what: str, stream: av.VideoStream | av.AudioStream, end: float) -> list[str]:
    """A truncated file just ends early; only the header still tells. A sentence if so."""
    if stream.duration is None or stream.time_base is None:
        return []
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return [f"truncated, the {what} ends at {end:.1f} s of {stated:.1f} s"] if end < stated - CUT_OFF_S else []


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
