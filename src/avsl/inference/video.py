"""Localization of the sources in a video: boxes at regular times as JSON, a contact sheet, and an annotated video."""

from __future__ import annotations

import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from avsl.console import progress_bar
from avsl.data.media.audio import iter_audio
from avsl.data.media.container import media_duration
from avsl.data.media.image import resize_frame
from avsl.data.media.video import Shot, iter_shots
from avsl.errors import DataError
from avsl.files import whole_file, write_json
from avsl.inference.predictor import Box, Predictor, find_boxes
from avsl.inference.video_writer import write_video
from avsl.viz.overlay import captioned, contact_sheet, overlay, save_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Longest transition between two maps, during which frames wait in memory.
_FADE_S = 1.0
_SHEET_TILES = 60
_SHEET_COLUMNS = 6
_TILE_WIDTH = 240


class _Tiles:
    """At most ``_SHEET_TILES`` overlays, evenly spaced over a video of unknown length."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[NDArray[np.uint8], str]] = {}
        self._stride = 1

    def wants(self, number: int) -> bool:
        return number % self._stride == 0

    def add(self, number: int, image: NDArray[np.uint8], caption: str) -> None:
        self._kept[number] = image, caption
        if len(self._kept) > _SHEET_TILES:
            self._stride *= 2
            self._kept = {k: tile for k, tile in self._kept.items() if self.wants(k)}

    def sheet(self, heading: str, threshold: float) -> Image.Image:
        images, captions = zip(*self._kept.values(), strict=True)
        return contact_sheet(
            list(images), list(captions), min(_SHEET_COLUMNS, len(images)), heading=heading, threshold=threshold
        )


@dataclass(frozen=True)
class _Look:
    """The localization at one time.

    Attributes:
        time_s: time in seconds.
        map: (S, S) smoothed confidence; 0 without a sound.
        heard: whether there is a sound.
    """

    time_s: float
    map: NDArray[np.float32]
    heard: bool


class _Looker:
    """Localizes at ascending times and collects the record and the tiles of the contact sheet.

    Attributes:
        rows: rows of the record, one per time.
        tiles: tiles of the contact sheet.
    """

    def __init__(
        self, path: Path, predictor: Predictor, smoothing_s: float, damage: list[str], spool: IO[bytes] | None
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.tiles = _Tiles()
        self._predictor = predictor
        self._smoothing_s = smoothing_s
        self._spool = spool
        self._times: deque[float] = deque()
        times = iter(self._times.popleft, None)  # a time is appended before a window is requested
        self._windows = iter_audio(path, times, predictor.duration_s, predictor.sample_rate, damage)
        self._before: _Look | None = None

    def look(self, time: float, frame: NDArray[np.uint8]) -> _Look:
        """Localize the sound around ``time`` in the frame at ``time``."""
        self._times.append(time)
        window = next(self._windows)
        side = self._predictor.image_size
        found = np.zeros((side, side), np.float32)
        if window is not None:
            # The map has the model's input size, because the cost of all later work grows with its size.
            found = self._predictor.predict([resize_frame(frame, side)], [window])[0].map
            if self._before is not None and self._before.heard and self._smoothing_s > 0:
                kept = math.exp((self._before.time_s - time) / self._smoothing_s)
                found = np.float32(kept) * self._before.map + np.float32(1 - kept) * found
        if self._spool is not None:
            self._spool.write(found.astype(np.float16).tobytes())
        self._before = look = _Look(time, found, window is not None)
        boxes, words = self.judge(found, look.heard)
        if self.tiles.wants(len(self.rows)):
            self.tiles.add(len(self.rows), _drawn(_tile(frame), found, boxes), f"{time:.1f} s, {words}")
        self.rows.append(
            {
                "time_s": round(time, 3),
                "confidence": float(found.max()) if look.heard else None,
                "visible_source": bool(boxes),
                "boxes": [list(box) for box in boxes],
            }
        )
        return look

    def judge(self, confidence: NDArray[np.float32], heard: bool) -> tuple[list[Box], str]:
        """The boxes of a map, none if no visible source sounds, and its caption."""
        peak = float(confidence.max())
        boxes = find_boxes(confidence, self._predictor.threshold) if peak >= self._predictor.presence else []
        return boxes, f"{peak:.2f}" if boxes else "no visible source" if heard else "no sound"


def _frames(
    shots: Iterable[Shot], looker: _Looker, frames_per_second: float, advance: Callable[[], None]
) -> Iterator[tuple[float, Shot, NDArray[np.uint8]]]:
    """Every frame with the map and boxes of its time, interpolated between the times before and after it.

    A frame that spans several times is repeated at each.
    """
    fade = min(_FADE_S, 1 / frames_per_second)
    waiting: deque[tuple[float, Shot]] = deque()
    before: _Look | None = None
    last: Shot | None = None
    count = 0

    def draw(start: float, shot: Shot, after: _Look | None) -> tuple[float, Shot, NDArray[np.uint8]]:
        share = 1.0 if after is None else min(1.0, max(0.0, 1 - (after.time_s - start) / fade))
        left, right = before or after, after or before
        if left is None or right is None:
            return start, shot, shot.pixels()
        confidence = np.float32(1 - share) * left.map + np.float32(share) * right.map
        boxes, words = looker.judge(confidence, (right if share >= 0.5 else left).heard)
        return start, shot, captioned(_drawn(shot.pixels(), confidence, boxes), words)

    for shot in shots:
        start, looked = shot.start_s, False
        while shot.is_on_screen(time := (count + 0.5) / frames_per_second):
            after = looker.look(time, shot.pixels())
            for begin, earlier in waiting:
                yield draw(begin, earlier, after)
            waiting.clear()
            before, count = after, count + 1
            waiting.append((time if looked else start, shot))
            looked = True
            advance()
        if not looked:
            waiting.append((start, shot))
        while waiting and waiting[0][0] < time - fade:
            yield draw(*waiting.popleft(), None)
        last = shot
    if not count and last is not None:
        before = looker.look(last.end_s / 2, last.pixels())
        advance()
    for start, shot in waiting:
        yield draw(start, shot, None)


def localize_video(
    path: Path,
    predictor: Predictor,
    out_dir: Path,
    *,
    model: str,
    frames_per_second: float = 1.0,
    smoothing_s: float = 0.5,
    maps: bool = False,
) -> Path:
    """Localize the sources of a video at regular times and draw them on all of its frames.

    Each time uses its frame and the sound around it, of the model's duration. Maps are averaged over time with the
    weight exp(-age / smoothing_s); silence resets the average. There is a visible source if the averaged map has a box
    and its peak reaches the model's ``presence``, which 95 % of the sounding validation samples reach. In silence, and
    before and after the sound track, there is no visible source and no confidence.

    Picture and sound are decoded once and in parallel. Only the list of boxes and the index of the mp4 grow with the
    length of the video. Damaged parts are skipped, logged and recorded.

    Args:
        path: any container that PyAV reads.
        predictor: the model.
        out_dir: folder of the results: ``<stem>.mp4``, the video with its sound, maps (interpolated between times),
            boxes and peaks; ``<stem>.png``, a contact sheet of at most 60 overlays with the model's name and a legend;
            and ``<stem>.json``.
        model: origin of the model, for the record.
        frames_per_second: localized times per second, in the middle of their intervals.
        smoothing_s: time constant of the average, in seconds; 0 for none.
        maps: whether to write ``<stem>.npz`` as well, with a row per time: ``confidence``, (N, S, S) in half precision,
            the averaged map on the model's square frame, 0 without a sound; ``time_s``, (N,) in seconds; ``heard``,
            (N,) bool, whether there is a sound.

    Returns:
        The JSON file: ``seconds`` lists ``time_s``, ``confidence`` (the maximum of the map in [0, 1], or null),
        ``visible_source`` and ``boxes`` (x0, y0, x1, y1 as fractions of the frame, and confidence); ``damage`` lists
        the parts that could not be decoded.

    Raises:
        DataError: the video cannot be decoded, has no picture or no sound, or would be overwritten.
    """
    if not 0 < frames_per_second <= 100:
        raise DataError(f"frames_per_second = {frames_per_second} is not in (0, 100]")
    if not 0 <= smoothing_s < math.inf:
        raise DataError(f"smoothing_s = {smoothing_s} is not 0 or more seconds")
    target = out_dir / f"{path.stem}.json"
    annotated = target.with_suffix(".mp4")
    if annotated.exists() and path.exists() and annotated.samefile(path):
        raise DataError(f"{path}: the annotated video would overwrite it: choose another folder")
    length = media_duration(path)
    damage: list[str] = []
    # In a file, so that memory does not grow with the length of the video.
    with tempfile.TemporaryFile() if maps else nullcontext() as spool:
        looker = _Looker(path, predictor, smoothing_s, damage, spool)
        with progress_bar(path.name, max(1, round(length * frames_per_second))) as bar:
            frames = _frames(iter_shots(path, damage), looker, frames_per_second, bar.advance)
            write_video(annotated, frames, path)
            bar.set_total(len(looker.rows))
        if spool is not None:
            _write_maps(target.with_suffix(".npz"), spool, looker.rows, predictor.image_size)
    for sentence in damage:
        log.warning("%s: %s", path, sentence)
    heading = f"{path.name} · {model} · trained on {predictor.trained_on or 'unknown data'}"
    save_png(looker.tiles.sheet(heading, predictor.threshold), target.with_suffix(".png"))
    record = {
        "video": path.name,
        "model": model,
        "trained_on": predictor.trained_on or None,
        "threshold": predictor.threshold,
        "presence": predictor.presence,
        "sound_window_s": predictor.duration_s,
        "frames_per_second": frames_per_second,
        "smoothing_s": smoothing_s,
        "damage": damage,
        "seconds": looker.rows,
    }
    write_json(target, record)
    return target


def _write_maps(target: Path, spool: IO[bytes], rows: list[dict[str, Any]], side: int) -> None:
    spool.flush()
    with whole_file(target) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            confidence=np.memmap(spool, np.float16, "r", shape=(len(rows), side, side)),
            time_s=np.array([row["time_s"] for row in rows]),
            heard=np.array([row["confidence"] is not None for row in rows]),
        )


def _drawn(frame: NDArray[np.uint8], confidence: NDArray[np.float32], boxes: list[Box]) -> NDArray[np.uint8]:
    """The frame with the map and boxes drawn over it; the frame itself if there are none."""
    if not boxes:
        return frame
    return overlay(frame, confidence, boxes=np.array([box[:4] for box in boxes], np.float32))


def _tile(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(frame)
    image.thumbnail((_TILE_WIDTH, _TILE_WIDTH), Image.Resampling.BILINEAR)
    return np.asarray(image)
