"""Localise the sources in a video: boxes for every second as JSON and a contact sheet of overlays."""

from __future__ import annotations

from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avsl.data.errors import DataError
from avsl.data.media import iter_audio, iter_video, media_duration
from avsl.files import write_json
from avsl.schema import ConfigError
from avsl.serving.predictor import Predictor
from avsl.tracking.registry import CHAMPION, model_folder, model_name
from avsl.tracking.runs import open_store
from avsl.viz.overlay import contact_sheet, overlay, save_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 8
_SHEET_TILES = 60
_SHEET_COLUMNS = 6
_TILE_WIDTH = 240


def load_predictor(
    *, checkpoint: Path | None = None, uri: str | None = None, data: str, ratio: float
) -> tuple[Predictor, str]:
    """Load the model that a person named.

    Args:
        checkpoint: an exported model's folder; goes before the others.
        uri: a registered model, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; goes before the ratio.
        data: the data set and
        ratio: label ratio whose champion is taken otherwise.

    Returns:
        The predictor and where it is from.

    Raises:
        ConfigError: the folder holds no exported model, or the ratio is none.
        TrackingError: the URI is none, or MLflow has no such model.
    """
    if checkpoint is not None:
        return Predictor.load(checkpoint), str(checkpoint)
    if uri is None:
        if not 0 < ratio <= 1:
            raise ConfigError(f"label ratio {ratio} is not in (0, 1]")
        uri = f"models:/{model_name(data, ratio)}@{CHAMPION}"
    # The configuration (Hydra, every method) is slow to import, and an exported folder needs none.
    from avsl.config import compose

    config = compose()
    with model_folder(open_store(config.tracking, config.root), uri) as (folder, found):
        return Predictor.load(folder), found


class _Tiles:
    """Overlays spread evenly over a video of unknown length, never more than ``_SHEET_TILES``."""

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

    def sheet(self) -> Image.Image:
        images, captions = zip(*self._kept.values(), strict=True)
        return contact_sheet(list(images), list(captions), min(_SHEET_COLUMNS, len(images)))


def localize_video(
    path: Path, predictor: Predictor, out_dir: Path, *, model: str, frames_per_second: float = 1.0
) -> Path:
    """Write where the sound comes from, at regular times of a video.

    Each time takes the frame on screen and the sound around it. A time without sound (silence, or the sound track
    has ended) has no confidence and no box. Memory does not grow with the video's length but for the list of boxes.

    Args:
        path: any container PyAV reads.
        predictor: the model.
        out_dir: gets ``<stem>.json`` and ``<stem>.png``, a contact sheet of at most 60 overlays.
        model: where the model is from, for the record.
        frames_per_second: times in a second; each lies in the middle of its interval.

    Returns:
        The JSON file: ``seconds`` lists ``time_s``, ``confidence`` (the map's highest, in [0, 1], or null) and
        ``boxes`` (x0, y0, x1, y1 as fractions of the frame, and confidence).

    Raises:
        DataError: the video cannot be decoded, or has no picture or no sound.
    """
    if not 0 < frames_per_second <= 100:
        raise DataError(f"frames_per_second = {frames_per_second} is not in (0, 100]")
    length = media_duration(path)
    clips, clock = tee(iter_video(path, frames_per_second))
    windows = iter_audio(path, (time for time, _ in clock), predictor.duration_s, predictor.sample_rate)
    moments = ((time, frame, window) for (time, frame), window in zip(clips, windows, strict=True))
    seconds: list[dict[str, Any]] = []
    tiles = _Tiles()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        total = None if length is None else max(1, round(length * frames_per_second))
        task = progress.add_task(path.name, total=total)
        while batch := list(islice(moments, _BATCH)):
            heard = [(frame, window) for _, frame, window in batch if window is not None]
            results = iter(predictor.predict([f for f, _ in heard], [w for _, w in heard]))
            for time, frame, window in batch:
                grid, boxes = (None, []) if window is None else next(results)
                confidence = None if grid is None else float(grid.max())
                if tiles.wants(len(seconds)):
                    tile, caption = _tile(frame), f"{time:.1f} s, no sound"
                    if grid is not None:
                        corners = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
                        tile, caption = overlay(tile, grid, boxes=corners), f"{time:.1f} s, {confidence:.2f}"
                    tiles.add(len(seconds), tile, caption)
                seconds.append(
                    {"time_s": round(time, 3), "confidence": confidence, "boxes": [list(box) for box in boxes]}
                )
            progress.advance(task, len(batch))
        progress.update(task, total=len(seconds))
    out_dir.mkdir(parents=True, exist_ok=True)
    save_png(tiles.sheet(), out_dir / f"{path.stem}.png")
    record = {
        "video": path.name,
        "model": model,
        "threshold": predictor.threshold,
        "sound_window_s": predictor.duration_s,
        "frames_per_second": frames_per_second,
        "seconds": seconds,
    }
    target = out_dir / f"{path.stem}.json"
    write_json(target, record)
    return target


def _tile(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(frame)
    image.thumbnail((_TILE_WIDTH, _TILE_WIDTH), Image.Resampling.BILINEAR)
    return np.asarray(image)
