"""Sound around a time, mono and resampled; the same for preparation, inference and serving."""

from __future__ import annotations

import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from avsl.data.media.checks import SILENCE_DB, check_file
from avsl.data.media.container import JITTER_S, Recording, Track, open_recording
from avsl.errors import DataError

SOUND_SUFFIXES = (".wav", ".ogg", ".flac", ".mp3")

# Sample rates outside this range indicate damage; the time to decode grows with the rate.
_MIN_RATE, _MAX_RATE = 1_000, 768_000  # Hz
# Length that is decoded and discarded before a window, because codecs need earlier packets.
_SETTLING_S = 1.0
# Channels cancel each other if their mean is this much weaker than the loudest of them.
_CANCELLED = 0.1
# Programs that write a wav into a pipe do not know its size and state about the largest possible one.
_UNKNOWN_SIZE = 0x7FFF0000 - 4096
# Encoders disagree on whether tags count in the stated size; the longest frame of an mp3 has this many bytes.
_MP3_FRAME = 1441
# FFmpeg's names of the allowed formats, by their first bytes. FFmpeg must not guess, because it also reads playlists.
_ENCODED = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg"}
_ENCODED_CODECS = ("pcm_", "adpcm_", "flac", "vorbis", "opus", "gsm_ms")


def read_audio(
    path: Path,
    start_s: float | None,
    duration_s: float,
    sample_rate: int = 16000,
    silence_db: float = SILENCE_DB,
) -> NDArray[np.float32]:
    """Decode a window of sound as mono.

    A window that exceeds the sound is shifted into it; a sound shorter than the window is tiled. Holes in the sound are
    silence.

    Args:
        path: any container with an audio stream.
        start_s: start of the window in seconds; None centers it in the recording.
        duration_s: length of the window in seconds.
        sample_rate: sample rate of the result, Hz.
        silence_db: peak, relative to full scale, below which the window is silent.

    Returns:
        (round(duration_s * sample_rate),) samples, which exceed ±1 if the file's do.

    Raises:
        DataError: the file is missing, empty, truncated, not media, has no sound in the middle of the window, or the
            window is silent or holds NaN or infinity.
    """
    check_file(path)
    with open_recording(path) as recording:
        track = recording.need_sound()
        center = None if start_s is None else start_s + duration_s / 2
        if center is None and recording.picture is not None:
            center = recording.stated_s / 2
        over = recording.picture is None or center is None or center + duration_s / 2 > track.end_s - recording.origin_s
        with path.open("rb") as file:
            if over and (track.stated_s is not None or _is_cut_off(file, recording.container.format.name)):
                raise DataError(f"{path}: {' '.join(track.cut_off()) or 'truncated, its end is missing'}")
        early = 0.0 if center is None else center - duration_s / 2
        window = _Sound(recording, duration_s, sample_rate, early).window(center)
    if window is None:
        raise DataError(f"{path}: has no sound at {center:.2f} s")
    if is_silent(window, silence_db):
        raise DataError(f"{path}: the sound is silent")
    return window


def iter_audio(
    path: Path,
    times: Iterable[float],
    duration_s: float,
    sample_rate: int,
    damage: list[str],
    silence_db: float = SILENCE_DB,
) -> Iterator[NDArray[np.float32] | None]:
    """Decode the sound around each of some times, in constant memory and one pass.

    Each window equals that of :func:`read_audio`. Damaged parts are replaced by silence.

    Args:
        path: any container with an audio stream.
        times: centers of the windows in ascending seconds.
        duration_s: length of a window in seconds.
        sample_rate: sample rate of the result, Hz.
        damage: receives a message for each missing or damaged part of the sound.
        silence_db: peak, relative to full scale, below which a window is silent.

    Yields:
        (round(duration_s * sample_rate),) samples; None in silence, and before and after the sound.

    Raises:
        DataError: the file is missing, empty, not media, or without a sound that can be decoded, or a window holds NaN
            or infinity.
    """
    check_file(path)
    with open_recording(path) as recording:
        sound = _Sound(recording, duration_s, sample_rate, 0.0, damage)
        damage += recording.need_sound().cut_off()
        for time in times:
            window = sound.window(time)
            yield None if window is None or is_silent(window, silence_db) else window


def decode_sound(
    content: bytes, sample_rate: int, check: Callable[[int, int, int], None]
) -> tuple[NDArray[np.float32], int]:
    """Decode a whole wav, flac or ogg as mono.

    Args:
        content: bytes of the file.
        sample_rate: sample rate of the result, Hz.
        check: called repeatedly with the length in samples, the rate in Hz and the number of samples of all channels
            that have been decoded; raises to refuse the sound.

    Returns:
        (T,) samples, and the number of decoded samples of all channels.

    Raises:
        DataError: the bytes are not such a sound, or are truncated.
    """
    name = Path("sound")
    container_format = _ENCODED.get(content[:4])
    if container_format is None:
        raise DataError("not a wav, flac or ogg sound")
    with open_recording(name, BytesIO(content), container_format) as recording:
        track = recording.need_sound()
        codec = recording.audio_stream().codec_context.name
        if not codec.startswith(_ENCODED_CODECS):
            raise DataError(f"a {container_format} of {codec} is not read")
        if track.stated_s is not None or _is_cut_off(BytesIO(content), container_format):
            raise DataError("truncated")
        chunks: list[NDArray[np.float32]] = []
        rate, length, decoded, begin_s = sample_rate, 0, 0, 0.0
        for time, rate, chunk in _chunks(recording, 0, None):
            begin_s = begin_s if chunks else time
            length, decoded = length + chunk.shape[1], decoded + chunk.size
            check(length, rate, decoded)
            chunks.append(chunk)
    if not chunks:
        raise DataError("has no sound")
    # Cut to the length that preparation uses, because decoders may return a part of a packet more.
    total = round((track.end_s - recording.origin_s - begin_s) * rate)
    return _resample(_mono(np.concatenate(chunks, axis=1)[:, :total]), rate, sample_rate), decoded


def scale_into_range(samples: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], bool]:
    """Scale a sound above full scale, because clipping would distort it.

    Args:
        samples: (T,).

    Returns:
        (T,) in [-1, 1], and whether it was scaled.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    return (samples / max(1.0, peak)).astype(np.float32), peak > 1


def to_pcm16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert samples in [-1, 1] to the stored format, (T,) int16."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def is_silent(samples: NDArray[np.float32], silence_db: float = SILENCE_DB) -> bool:
    """Whether the peak of a stored sound is below a level relative to full scale."""
    stored = to_pcm16(samples)
    return not stored.any() or bool(np.abs(stored.astype(np.int32)).max() < 32768 * 10 ** (silence_db / 20))


class _Sound:
    """The sound of a recording, decoded as far as windows need it.

    Output sample k is the sound ``k / sample_rate`` after the sound's beginning, independent of the decoded
    range: the resampler's filter gets all samples that it weights and starts in the same phase.
    """

    def __init__(
        self,
        recording: Recording,
        duration_s: float,
        sample_rate: int,
        early_s: float,
        damage: list[str] | None = None,
    ) -> None:
        """Decode for windows that start at ``early_s`` or later."""
        self._recording, self._track = recording, recording.need_sound()
        self._sample_rate, self._length = sample_rate, round(duration_s * sample_rate)
        self._begin_s = self._track.begin_s - recording.origin_s
        self._end_s = self._track.end_s - recording.origin_s
        # Windows are shifted into the sound at its end, and begin at phase 0 of the filter, which takes up to a second.
        wanted_s = recording.origin_s + min(early_s, self._end_s - duration_s) - 1.0
        first = _packet_before(self._track, wanted_s - _SETTLING_S)
        self._chunks = _chunks(recording, first, damage)
        settled_s = float(self._track.due_s[first]) + _SETTLING_S - recording.origin_s if first else -math.inf
        for time, rate, chunk in self._chunks:
            if time + chunk.shape[1] / rate > settled_s:
                break
        else:
            raise DataError(f"{recording.path}: has no sound")
        self._rate = rate
        if not first:
            self._begin_s = settled_s = time
        self._first = self._stop = round((settled_s - self._begin_s) * rate)  # range of the samples in memory
        late = round((time - settled_s) * rate)
        self._next: tuple[int, NDArray[np.float32]] | None = (self._first + max(late, 0), chunk[:, max(-late, 0) :])
        self._held = deque([chunk[:, :0]])
        self._ended = False

    def window(self, center_s: float | None) -> NDArray[np.float32] | None:
        """The samples around a time, or in the middle of the sound; None outside the sound.

        Raises:
            DataError: they hold NaN or infinity.
        """
        rate, total = self._rate, round((self._end_s - self._begin_s) * self._rate)
        if center_s is None:
            start = (self._resampled(total) - self._length) // 2
        elif self._begin_s <= center_s <= self._end_s:
            start = round((center_s - self._begin_s) * self._sample_rate) - self._length // 2
        else:
            return None
        start = max(0, min(start, self._resampled(total) - self._length))
        margin = _reach(rate, self._sample_rate)
        down = rate // math.gcd(rate, self._sample_rate)
        stop = math.ceil((start + self._length) * rate / self._sample_rate) + margin
        self._hold(stop, stop - start * rate // self._sample_rate + margin + down + rate)
        if self._ended:
            if total - self._stop > JITTER_S * rate:  # undecodable samples are silence
                self._append(np.zeros((len(self._held[0]), min(total, stop) - self._stop), np.float32))
            else:
                start = max(0, min(start, self._resampled(self._stop) - self._length))
        begin = max(self._first, start * rate // self._sample_rate - margin, 0)
        begin = (begin // down + (begin // down * down < self._first)) * down
        samples = np.concatenate(self._held, axis=1)[:, begin - self._first : stop - self._first]
        if not np.isfinite(samples).all():
            raise DataError(f"{self._recording.path}: the sound holds NaN or infinite samples")
        skip = start - begin // down * (self._sample_rate * down // rate)
        heard = _resample(_mono(samples), rate, self._sample_rate)[skip : skip + self._length]
        return np.resize(heard, self._length) if len(heard) < self._length else heard

    def _resampled(self, samples: int) -> int:
        return math.ceil(samples * self._sample_rate / self._rate)

    def _hold(self, stop: int, span: int) -> None:
        """Decode up to sample ``stop``, and drop samples before the last ``span``."""
        while self._stop < stop and not self._ended:
            if self._next is None:
                decoded = next(self._chunks, None)
                if decoded is None:
                    self._ended = True
                    return
                time, _, chunk = decoded
                due = round((time - self._begin_s) * self._rate)
                # Time stamps are rounded, so samples are counted, except at holes and repetitions.
                step = 0 if abs(due - self._stop) <= JITTER_S * self._rate else due - self._stop
                self._next = self._stop + max(step, 0), chunk[:, max(-step, 0) :]
            due, chunk = self._next
            if due > self._stop:  # a hole
                chunk = np.zeros((len(chunk), min(due, stop) - self._stop), np.float32)
            else:
                self._next = None
            self._append(chunk)
            while len(self._held) > 1 and self._stop - self._first - self._held[0].shape[1] >= span:
                self._first += self._held.popleft().shape[1]

    def _append(self, chunk: NDArray[np.float32]) -> None:
        self._held.append(chunk)
        self._stop += chunk.shape[1]


def _packet_before(track: Track, due: float) -> int:
    """The last key packet that is due by a time on the container's clock."""
    found = np.flatnonzero(track.keys & (track.due_s <= due))
    return int(found[-1]) if len(found) and track.clock_s is None else 0


def _chunks(
    recording: Recording, first: int, damage: list[str] | None
) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Start in seconds, rate in Hz and samples (channels, n) of each decoded frame, in one layout and rate."""
    converter: av.AudioResampler | None = None
    given: tuple[object, ...] = ()
    layout: av.AudioLayout | None = None
    rate, end = 0, 0.0
    for frame in recording.decode(recording.audio_stream(), first, damage):
        if not _MIN_RATE <= frame.sample_rate <= _MAX_RATE:
            raise DataError(
                f"{recording.path}: states {frame.sample_rate} samples a second, not {_MIN_RATE} to {_MAX_RATE}"
            )
        if converter is None or given != (frame.format.name, frame.layout.name, frame.sample_rate):
            given = (frame.format.name, frame.layout.name, frame.sample_rate)
            layout, rate = layout or frame.layout, rate or frame.sample_rate
            # Interleaved, because PyAV's conversion of planes to an array has crashed with 8 channels at 192 kHz.
            converter = av.AudioResampler(format="flt", layout=layout, rate=rate)
        start = end if frame.time is None else frame.time - recording.origin_s
        for converted in converter.resample(frame):
            end = start + converted.samples / rate
            samples = converted.to_ndarray().reshape(-1, converted.layout.nb_channels)
            yield start, rate, samples.T.astype(np.float32)
            start = end


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels (C, n), or the loudest channel if they cancel each other: (n,)."""
    mean: NDArray[np.float32] = samples.mean(axis=0, dtype=np.float32)
    if len(samples) > 1:
        loudness = np.sqrt(np.square(samples, dtype=np.float64).mean(axis=1))
        if np.sqrt(np.square(mean, dtype=np.float64).mean()) < _CANCELLED * loudness.max():
            mean = samples[int(loudness.argmax())]
    return mean


def _reach(rate: int, sample_rate: int) -> int:
    """Number of samples on either side of a time that the resampler weights."""
    return 0 if rate == sample_rate else 10 * math.ceil(max(1.0, rate / sample_rate)) + 1


def _resample(samples: NDArray[np.float32], rate: int, sample_rate: int) -> NDArray[np.float32]:
    if rate == sample_rate or not len(samples):
        return samples
    # Imported here because it is slow and seldom needed.
    from scipy.signal import resample_poly

    common = math.gcd(rate, sample_rate)
    resampled: NDArray[np.float32] = resample_poly(samples, sample_rate // common, rate // common)
    return resampled


def _is_cut_off(file: BinaryIO, container_format: str) -> bool:
    """Whether the end of a wav, mp3 or ogg is missing, which FFmpeg does not report."""
    size = file.seek(0, os.SEEK_END)
    if container_format == "wav":
        stated, begin = _wav_data(file)
        return 0 < stated < _UNKNOWN_SIZE and begin + stated > size
    if container_format == "mp3":
        stated, begin = _mp3_data(file)
        return begin + stated - _MP3_FRAME > size
    if container_format != "ogg":
        return False
    # The last page is incomplete, or not marked as the end of the stream (RFC 3533, section 6).
    file.seek(max(0, size - 2 * 65307))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _wav_data(file: BinaryIO) -> tuple[int, int]:
    """The stated number of bytes of a wav's samples, 0 if unknown, and their offset."""
    file.seek(12)
    long_size = 0
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return long_size or size, file.tell()
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            long_size = struct.unpack("<QQ", sizes)[1]
            size -= 16
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0


def _mp3_data(file: BinaryIO) -> tuple[int, int]:
    """The stated number of bytes of an mp3's frames, 0 if unknown, and their offset."""
    file.seek(0)
    tag = file.read(10)
    begin = 0
    if tag.startswith(b"ID3"):  # its size has 7 bits a byte
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    file.seek(begin)
    # The Xing header is 13 to 36 bytes into the first frame: name, flags, number of frames, number of bytes.
    frame = file.read(64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or len(frame) < place + 16:
        return 0, begin
    flags, first, second = struct.unpack(">3I", frame[place + 4 : place + 16])
    return ((second if flags & 1 else first) if flags & 2 else 0), begin
