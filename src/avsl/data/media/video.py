"""Frames of a video: the frame at a time, and all frames in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from numpy.typing import NDArray

from avsl.data.media.checks import PICTURE_SUFFIXES, check_file
from avsl.data.media.container import LONGEST_STEP_S, Recording, Track, open_recording
from avsl.data.media.image import read_picture
from avsl.errors import DataError

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideDataContainer

# Times with a smaller difference are equal, because they are sums of floats.
_SAME_S = 1e-6
# Number of earlier key frames to try before decoding from the first packet.
_TRIES = 3


def read_frame(path: Path, time_s: float | None) -> NDArray[np.uint8]:
    """Decode one picture.

    Args:
        path: jpg or png, or any container with a video stream.
        time_s: time of the frame in seconds; None is the middle. The first frame also counts before its time, and the
            last one until the end of the sound. It is ignored for a picture.

    Returns:
        (H, W, 3) RGB, upright.

    Raises:
        DataError: the file is missing, empty, truncated, not media, or ends before ``time_s``.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return read_picture(path)
    check_file(path)
    with open_recording(path) as recording:
        track = recording.need_picture()
        time = recording.stated_s / 2 if time_s is None else time_s
        if track.stated_s is not None and time > track.end_s - recording.origin_s:
            raise DataError(f"{path}: {track.cut_off()[0]}")
        first, *others = _beginnings(track, time + recording.origin_s)
        shot = _shot_at(recording, time, first)
    for first in others:
        if shot is not None:
            break
        with open_recording(path) as recording:
            shot = _shot_at(recording, time, first)
    if shot is None:
        raise DataError(f"{path}: has no frame at {time:.2f} s")
    return shot.pixels()


@dataclass(frozen=True)
class Shot:
    """A frame of a video and its time span.

    Attributes:
        start_s: start in seconds.
        end_s: end in seconds.
        frame: the decoded frame.
    """

    start_s: float
    end_s: float
    frame: av.VideoFrame

    def is_on_screen(self, time_s: float) -> bool:
        """Whether no later frame is due at a time; the first such frame is on screen."""
        return time_s < self.end_s - _SAME_S

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, upright."""
        # One thread, because there is a process per core, and a pool takes longer to start than to decode a frame.
        rgb = self.frame.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
        return np.ascontiguousarray(_upright(rgb, self.frame))

    def pixel_aspect(self, stored: Fraction | None) -> Fraction | None:
        """Aspect ratio of an upright pixel, given that of a stored one; None if unknown."""
        return 1 / stored if stored and _display(self.frame)[2] else stored


def iter_shots(path: Path, damage: list[str]) -> Iterator[Shot]:
    """Decode every frame of a video, in constant memory and one pass.

    Damaged frames are skipped. A frame lasts until the next one, the last frame until the end of the sound; frames that
    come too late are left out.

    Args:
        path: any container with a video stream.
        damage: receives a message for each missing or damaged part of the picture.

    Yields:
        The frames in order of time.

    Raises:
        DataError: the file is missing, empty, not media, or without a picture that can be decoded.
    """
    check_file(path)
    with open_recording(path) as recording:
        stream = recording.video_stream()
        stream.thread_type = "AUTO"
        count = 0
        for shot in _shots(recording, recording.decode(stream, damage=damage), 0, damage):
            count += 1
            yield shot
        if not count:
            raise DataError(f"{path}: the video stream has no frame")
        damage += recording.need_picture().cut_off()


def _shots(
    recording: Recording, frames: Iterable[av.VideoFrame], first: int, damage: list[str] | None = None
) -> Iterator[Shot]:
    """Each frame with its time span until the next one; the only definition of the frame at a time.

    Args:
        recording: the recording of the frames.
        frames: frames in the order of presentation.
        first: index of the first decoded packet.
        damage: receives a message if time jumps by over an hour.
    """
    track = recording.need_picture()
    clock = None if track.clock_s is None or first else iter(track.clock_s.tolist())
    shown: av.VideoFrame | None = None
    start = 0.0
    for frame in frames:
        stamp = frame.time if clock is None else next(clock, None)
        if stamp is None:
            continue
        time = stamp - recording.origin_s
        if shown is not None:
            if time <= start:
                continue
            if time - start > LONGEST_STEP_S:
                if damage is not None:
                    damage.append(f"the picture is lost after {start:.1f} s, because its time jumps by over an hour")
                yield Shot(start, start, shown)
                return
            yield Shot(start, time, shown)
        shown, start = frame, time
    if shown is not None:
        yield Shot(start, max(recording.length_s, start), shown)


def _beginnings(track: Track, due: float) -> list[int]:
    """The packets from which to try to decode the frame at ``due``, on the container's clock, the fastest first.

    A container may mark a wrong packet as a key; then the next candidate is tried, and finally the first packet.
    """
    wanted = _wanted(track, due)
    if wanted is None or track.clock_s is not None:
        return [0]
    # Frames that are decoded after a key frame and presented before it need earlier packets.
    keys = np.flatnonzero(track.keys & (track.due_s <= wanted))
    return [*(int(key) for key in keys[::-1][:_TRIES] if key), 0]


def _wanted(track: Track, due: float) -> float | None:
    """Start of the frame that is on screen at ``due``; None before the first."""
    shown = track.due_s[track.due_s <= due + _SAME_S]
    return float(shown.max()) if len(shown) else None


def _shot_at(recording: Recording, time: float, first: int) -> Shot | None:
    """The frame on screen, decoded from a packet on; None if that packet is too late."""
    frames = recording.decode(recording.video_stream(), first)
    shot = next((shot for shot in _shots(recording, frames, first) if shot.is_on_screen(time)), None)
    if first == 0 or shot is None:
        return shot
    wanted = _wanted(recording.need_picture(), time + recording.origin_s)
    found = wanted is not None and abs(shot.start_s + recording.origin_s - wanted) < _SAME_S
    return shot if found and not shot.frame.is_corrupt else None


def _display(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be shown: mirrored from left to right, then upside down, of its rows and columns exchanged."""
    matrix = cast("SideDataContainer", frame.side_data).get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return a < 0, d < 0, False
    return c < 0, b < 0, True


def _upright(pixels: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A frame oriented by the file's display matrix (cameras held sideways, mirrored, or upside down)."""
    leftward, upward, exchanged = _display(frame)
    if exchanged:
        pixels = pixels.transpose(1, 0, 2)
    if leftward:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if upward else pixels
