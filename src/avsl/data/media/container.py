"""Containers of audio and video: their streams, clock, length and missing parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, overload

import av
import numpy as np
from av.stream import Disposition

from avsl.data.media.checks import MAX_PIXELS, check_file, check_pixels
from avsl.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from numpy.typing import NDArray

# Time stamps of sound are rounded, in Matroska to a millisecond; a larger gap between frames is a hole.
JITTER_S = 0.05
# A recording is truncated if it ends this much before the end in its header.
_CUT_OFF_S = 0.5
# A larger step between two time stamps indicates damage.
LONGEST_STEP_S = 3600.0
# Containers whose headers state a length or a number of samples. For others FFmpeg estimates the length from the bit
# rate or the last time stamp.
_STATES_LENGTH = {"avi", "mov"}
_STATES_SAMPLES = {"aiff", "au", "caf", "flac"}
# A packet's time stamp, duration, whether it is a key packet, and whether its frame is hidden.
_Stamp = tuple[int | None, int, bool, bool]
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Track:
    """The packets of a stream, on the container's clock.

    Attributes:
        index: index of the stream.
        what: ``picture`` or ``sound``.
        begin_s: start of the first frame.
        end_s: end of the last frame.
        stated_s: end of the track in the header, if the file is truncated; None if nothing is missing.
        due_s: time of each packet's frame, in the order of decoding; NaN for a hidden frame.
        keys: whether decoding can begin at a packet.
        clock_s: times of the frames in the order of presentation, if the container's time stamps lack them.
    """

    index: int
    what: str
    begin_s: float
    end_s: float
    stated_s: float | None
    due_s: NDArray[np.float64]
    keys: NDArray[np.bool_]
    clock_s: NDArray[np.float64] | None

    def cut_off(self) -> list[str]:
        """A message if the track ends before the end in the header, which alone shows that a file is truncated."""
        if self.stated_s is None:
            return []
        ends, stated = self.end_s - self.begin_s, self.stated_s - self.begin_s
        return [f"truncated, the {self.what} ends at {ends:.1f} s of {stated:.1f} s"]


@dataclass(frozen=True)
class Recording:
    """An open container. Times count from the first picture or sound.

    Attributes:
        path: path of the file, for errors.
        container: the container, of which nothing has been decoded.
        picture: FFmpeg's default video stream except cover art; None if there is none.
        sound: FFmpeg's default audio stream; None if there is none.
    """

    path: Path
    container: InputContainer
    picture: Track | None
    sound: Track | None

    @property
    def _tracks(self) -> list[Track]:
        return [track for track in (self.picture, self.sound) if track is not None]

    @property
    def origin_s(self) -> float:
        """Time 0 on the container's clock, s."""
        return min((track.begin_s for track in self._tracks), default=0.0)

    @property
    def length_s(self) -> float:
        """Length from the first picture or sound to the end of the last, s."""
        return max((track.end_s for track in self._tracks), default=0.0) - self.origin_s

    @property
    def stated_s(self) -> float:
        """The length in the header of a truncated file, s; `length_s` of a complete one."""
        ends = [track.end_s if track.stated_s is None else track.stated_s for track in self._tracks]
        return max(ends, default=0.0) - self.origin_s

    def need_picture(self) -> Track:
        """The picture.

        Raises:
            DataError: there is none.
        """
        if self.picture is None:
            raise DataError(f"{self.path}: has no video stream")
        return self.picture

    def need_sound(self) -> Track:
        """The sound.

        Raises:
            DataError: there is none.
        """
        if self.sound is None:
            raise DataError(f"{self.path}: has no audio stream")
        return self.sound

    def video_stream(self) -> av.VideoStream:
        """The stream of the picture, which refuses frames that are too large.

        Raises:
            DataError: there is none, or its frames are too large.
        """
        stream = self.container.streams[self.need_picture().index]
        assert isinstance(stream, av.VideoStream)
        check_pixels(stream.width, stream.height, self.path)
        # A stream may have larger frames than its header states.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    def audio_stream(self) -> av.AudioStream:
        """The stream of the sound.

        Raises:
            DataError: there is none.
        """
        stream = self.container.streams[self.need_sound().index]
        assert isinstance(stream, av.AudioStream)
        return stream

    @overload
    def decode(
        self, stream: av.VideoStream, first: int = 0, damage: list[str] | None = None
    ) -> Iterator[av.VideoFrame]: ...

    @overload
    def decode(
        self, stream: av.AudioStream, first: int = 0, damage: list[str] | None = None
    ) -> Iterator[av.AudioFrame]: ...

    def decode(
        self, stream: av.VideoStream | av.AudioStream, first: int = 0, damage: list[str] | None = None
    ) -> Iterator[av.VideoFrame | av.AudioFrame]:
        """Decode a stream; a recording can be decoded once.

        Packets are read without seeking, because the result of a seek depends on the container and its index.

        Args:
            stream: a stream of this recording.
            first: index of the first packet to decode.
            damage: receives a message for each damaged part, which is skipped; None raises an error instead.

        Yields:
            The frames of the stream.

        Raises:
            av.error.FFmpegError: a packet cannot be decoded and ``damage`` is None.
        """
        packets = self.container.demux(stream)
        now, count, first_fault, number = 0.0, 0, 0.0, -1
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                if damage is None:
                    raise
                damage.append(f"cannot be read beyond {now:.1f} s: {error.strerror}")
                break
            number += 1
            if number < first and packet.size:
                continue
            if packet.pts is not None and packet.time_base:
                now = float(packet.pts * packet.time_base) - self.origin_s
            faulty = packet.is_corrupt
            try:
                frames = [frame for frame in packet.decode() if isinstance(frame, (av.VideoFrame, av.AudioFrame))]
            except av.error.FFmpegError:
                if damage is None:
                    raise
                frames, faulty = [], True
            if faulty or any(frame.is_corrupt for frame in frames):
                first_fault = first_fault if count else now
                count += 1
            yield from frames
        if count and damage is not None:
            what = "picture" if isinstance(stream, av.VideoStream) else "sound"
            damage.append(f"{count} packets of the {what} are damaged, the first at {first_fault:.1f} s")


def media_duration(path: Path) -> float:
    """Length in seconds from the first picture or sound to the end of the last; the stated length of a truncated file.

    Raises:
        DataError: the file is missing, empty or not media.
    """
    check_file(path)
    with open_recording(path) as recording:
        return recording.stated_s


@contextmanager
def open_recording(
    path: Path, content: BytesIO | None = None, container_format: str | None = None
) -> Iterator[Recording]:
    """Open a container and read all packets once, because headers may be wrong or missing.

    Args:
        path: the file, or a name for ``content``.
        content: bytes of the file, if it is not on disk.
        container_format: FFmpeg's name of the container; None lets FFmpeg guess.

    Raises:
        DataError: FFmpeg fails, here or within the block.
    """
    try:
        with _open(path, content, container_format) as container:
            picture, sound = _scan(container)
        # Opened again, because some containers cannot be read from the beginning twice.
        with _open(path, content, container_format) as container:
            yield Recording(path, container, picture, sound)
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded: {error.strerror}") from error


def _open(path: Path, content: BytesIO | None, container_format: str | None) -> InputContainer:
    if content is not None:
        content.seek(0)
        return av.open(content, "r", format=container_format)
    # Without the protocol a file name with a colon would be read as an address.
    return av.open(f"file:{path}", "r", format=container_format)


def _scan(container: InputContainer) -> tuple[Track | None, Track | None]:
    """The tracks of picture and sound, from packets without decoding."""
    videos = [stream for stream in container.streams.video if not stream.disposition & _COVERS]
    default = container.streams.best("video")
    video = default if default in videos else max(videos, key=_is_default, default=None)
    audio = container.streams.best("audio", video) or container.streams.best("audio")
    assert video is None or isinstance(video, av.VideoStream)
    assert audio is None or isinstance(audio, av.AudioStream)
    streams = [stream for stream in (video, audio) if stream is not None]
    packets: dict[int, list[_Stamp]] = {stream.index: [] for stream in streams}
    try:
        for packet in container.demux(streams) if streams else ():
            if packet.size:  # empty packets only end a stream
                pts = None if packet.is_discard else packet.pts
                packets[packet.stream_index].append((pts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
    except av.error.FFmpegError:
        pass  # the file ends here; decoding beyond raises the error again
    tracks = [None if stream is None else _track(stream, packets[stream.index], container) for stream in (video, audio)]
    end = max((track.end_s for track in tracks if track is not None), default=0.0)
    stated = (container.duration or 0) / av.time_base
    if _name(container) == "matroska" and end < stated - _CUT_OFF_S:
        # The header only states the end of the whole file, on the container's clock.
        tracks = [None if track is None else replace(track, stated_s=stated) for track in tracks]
    return tracks[0], tracks[1]


def _is_default(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _name(container: InputContainer) -> str:
    return container.format.name.partition(",")[0]


def _track(stream: av.VideoStream | av.AudioStream, packets: list[_Stamp], container: InputContainer) -> Track:
    tick, is_video = float(stream.time_base or 0), isinstance(stream, av.VideoStream)
    step = float(1 / stream.average_rate) if is_video and stream.average_rate else 0.0
    due = np.array([np.nan if pts is None else pts * tick for pts, *_ in packets], dtype=np.float64)
    lasting = np.array([duration * tick or step for _, duration, *_ in packets], dtype=np.float64)
    shown = np.array([not discarded for *_, discarded in packets], dtype=bool)
    begin = (stream.start_time or 0) * tick
    if np.isnan(due[shown]).any():
        due[shown] = begin + np.cumsum(lasting[shown]) - lasting[shown]
        stamped = False
    else:
        # AVI's time stamps are in the order of decoding instead of presentation.
        stamped = not (is_video and _name(container) == "avi")
        if stream.start_time is None and shown.any():
            begin = float(due[shown].min())
    order = np.flatnonzero(shown)[np.argsort(due[shown], kind="stable")]
    end = begin
    if len(order):
        leaps = np.flatnonzero(np.diff(due[order]) > LONGEST_STEP_S)
        last = order[leaps[0] if len(leaps) else -1]
        end = max(end, float(due[last] + (lasting[last] if lasting[last] <= LONGEST_STEP_S else 0)))
    return Track(
        index=stream.index,
        what="picture" if is_video else "sound",
        begin_s=begin,
        end_s=end,
        stated_s=_stated_end(stream, container, begin, end),
        due_s=due,
        keys=np.array([key for _, _, key, _ in packets], dtype=bool),
        clock_s=None if stamped else due[order],
    )


def _stated_end(
    stream: av.VideoStream | av.AudioStream, container: InputContainer, begin: float, end: float
) -> float | None:
    """The end of a track in the header of a truncated file; None if nothing is missing."""
    exact = _name(container) in _STATES_SAMPLES
    if not (exact or _name(container) in _STATES_LENGTH) or stream.duration is None or stream.time_base is None:
        return None
    length = float(stream.duration * stream.time_base)
    return begin + length if end < begin + length - (JITTER_S if exact else _CUT_OFF_S) else None
