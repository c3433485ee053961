"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avsl.data.media.checks import PICTURE_FORMATS, PICTURE_SUFFIXES, check_file, check_pixels
from avsl.data.media.container import (
    CUT_OFF_S,
    cut_off,
    duration,
    open_media,
    origin_s,
    salvage,
    video_stream,
)
from avsl.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

# No frame is on screen for longer; a damaged time stamp may say that one is for days.
_LONGEST_SHOT_S = 3600.0


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
    check_file(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of a limit above ours
                picture = Image.open(path, formats=PICTURE_FORMATS)
            with picture:
                check_pixels(picture.width, picture.height, path)
                return np.array(picture.convert("RGB"))
        except DataError:
            raise
        except Exception as error:  # whatever Pillow's decoders raise for a damaged file
            raise DataError(f"{path}: cannot read the picture: {error}") from error
    with open_media(path) as container:
        stream = video_stream(container, path)
        if time_s is None:
            time_s = duration(container, path) / 2
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
    check_file(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
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
        damage += cut_off("picture", stream, end)
        # Matroska states the length of the whole alone, and that may be the sound's.
        whole = container.duration / av.time_base if container.duration and stream.duration is None else 0.0
        if end - origin < whole - CUT_OFF_S:
            damage.append(f"the picture ends at {end - origin:.1f} s of {whole:.1f} s")


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


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB, turned as the file's display matrix says (cameras held sideways)."""
    # One thread: there is a process for every core already, and the pool takes longer to start than a frame.
    pixels: NDArray[np.uint8] = frame.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
