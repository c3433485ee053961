"""Writes an annotated video: drawn frames with the sound of their recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy.typing import NDArray

from avsl.data.media.container import JITTER_S, Recording, open_recording
from avsl.data.media.video import Shot
from avsl.errors import DataError
from avsl.files import whole_file

if TYPE_CHECKING:
    from av.container import OutputContainer

# Codecs that mp4 holds and players support; other sound is encoded as AAC.
_COPIED = ("aac", "ac3", "alac", "eac3", "mp3")
# The time base of MPEG-4 part 2 has at most 65,535 ticks per second.
_TICK = Fraction(1, 30000)


def write_video(target: Path, frames: Iterable[tuple[float, Shot, NDArray[np.uint8]]], source: Path) -> None:
    """Write an mp4 atomically, in constant memory except for its index (about 15 MB per hour).

    The video is H.264, or MPEG-4 part 2 if PyAV's FFmpeg lacks libx264. AAC, MP3, (E-)AC-3 and ALAC sound is copied,
    other sound is encoded as AAC.

    Args:
        target: the file.
        frames: time in ascending seconds from the beginning of the recording, shot of the recording, and picture to
            show, (H, W, 3) RGB, upright; all are resized to the size of the first, with odd sides enlarged by a pixel.
        source: the recording, whose sound is read along with the frames; unreadable parts are left out.

    Raises:
        DataError: ``source`` has no sound, or FFmpeg cannot write the file.
        ValueError: there is no frame.
    """
    with whole_file(target) as part, open_recording(source) as recording:
        try:
            # Without the protocol a file name with a colon would be read as an address.
            with av.open(f"file:{part}", "w", format="mp4", options={"movflags": "faststart"}) as out:
                _write(out, iter(frames), recording)
        except av.error.FFmpegError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror}") from error


def _write(out: OutputContainer, frames: Iterator[tuple[float, Shot, NDArray[np.uint8]]], recording: Recording) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs a frame")
    _, shot, pixels = first
    height, width = (side + side % 2 for side in pixels.shape[:2])
    picture = _picture_track(out, width, height)
    if aspect := shot.pixel_aspect(recording.video_stream().sample_aspect_ratio):
        picture.codec_context.sample_aspect_ratio = aspect
    packets = _sound_packets(out, recording)
    waiting = next(packets, None)
    for time, _, pixels in chain([first], frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(width, height, "yuv420p", threads=1)
        frame.pts, frame.time_base = round(time / _TICK), _TICK
        out.mux(picture.encode(frame))
        # Interleaved, because the muxer buffers packets that are ahead.
        while waiting is not None and _seconds(waiting) <= time:
            out.mux(waiting)
            waiting = next(packets, None)
    out.mux(picture.encode())
    while waiting is not None:
        out.mux(waiting)
        waiting = next(packets, None)


def _picture_track(out: OutputContainer, width: int, height: int) -> av.VideoStream:
    if "libx264" in av.codecs_available:
        track = out.add_stream("libx264", rate=30, options={"preset": "veryfast"})
    else:
        track = out.add_stream("mpeg4", rate=30)
        track.bit_rate = 4 * width * height
    track.width, track.height, track.pix_fmt = width, height, "yuv420p"
    track.codec_context.time_base = _TICK
    return track


def _sound_packets(out: OutputContainer, recording: Recording) -> Iterator[av.Packet[av.AudioStream]]:
    """The packets of a new track of ``out``, which is added before this returns."""
    sound = recording.audio_stream()
    if sound.codec.canonical_name in _COPIED:
        return _copied(sound, out.add_stream_from_template(sound), recording)
    rates = av.Codec("aac", "w").audio_rates or []
    track = out.add_stream("aac", rate=sound.rate if sound.rate in rates else 48000)
    track.layout = "mono" if sound.channels == 1 else "stereo"
    return _encoded(sound, track, recording)


def _copied(sound: av.AudioStream, track: av.AudioStream, recording: Recording) -> Iterator[av.Packet[av.AudioStream]]:
    last = None
    packets = recording.container.demux(sound)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # the decoder of the sound reports the damage
            return
        if packet.dts is None or packet.pts is None or packet.is_corrupt or not packet.time_base:
            continue
        shift = round(recording.origin_s / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if last is None or packet.dts > last:
            last = packet.dts
            packet.stream = track
            yield packet


def _encoded(sound: av.AudioStream, track: av.AudioStream, recording: Recording) -> Iterator[av.Packet[av.AudioStream]]:
    rate, clock = sound.rate, None
    for frame in recording.decode(sound, damage=[]):
        # Some containers round time stamps to packets, and encoders refuse decreasing ones: samples are counted
        # instead, except for holes.
        due = clock if frame.time is None else round((frame.time - recording.origin_s) * rate)
        if clock is None or (due is not None and due > clock + JITTER_S * rate):
            clock = due or 0
        frame.pts, frame.time_base = clock, Fraction(1, rate)
        clock += frame.samples
        yield from track.encode(frame)
    yield from track.encode()


def _seconds(packet: av.Packet[av.AudioStream]) -> float:
    return float(packet.dts * packet.time_base) if packet.dts is not None and packet.time_base else 0.0
