"""Localization in all videos of a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from avsl.errors import DataError
from avsl.inference.predictor import Predictor
from avsl.inference.video import localize_video

log = logging.getLogger(__name__)

_VIDEOS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


def localize_folder(
    folder: Path,
    predictor: Predictor,
    out_dir: Path,
    *,
    model: str,
    frames_per_second: float = 1.0,
    smoothing_s: float = 0.5,
    maps: bool = False,
) -> Iterator[Path]:
    """Localize the sources in all videos of a folder, without its subfolders.

    A video is skipped if its result has the same model and settings and is not older than the video, so that an
    interrupted call can be resumed. A video that cannot be used is reported, and the others are localized.

    Args:
        folder: folder of videos, which are recognized by their suffixes.
        predictor: the model.
        out_dir: folder of the results, see :func:`avsl.inference.video.localize_video`.
        model: origin of the model, for the record.
        frames_per_second: localized times per second.
        smoothing_s: time constant of the average over time, in seconds.
        maps: whether to write the maps as arrays too.

    Yields:
        The JSON file of each video, ordered by name.

    Raises:
        DataError: there is no video, two videos would have the same result, or, at the end, some could not be used.
    """
    videos = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in _VIDEOS)
    if not videos:
        raise DataError(f"{folder} holds no video ({', '.join(_VIDEOS)})")
    stems: dict[str, Path] = {}
    for video in videos:
        if (other := stems.setdefault(video.stem, video)) is not video:
            raise DataError(f"{folder}: {other.name} and {video.name} would both become {video.stem}.json: rename one")
    settings = {"model": model, "frames_per_second": frames_per_second, "smoothing_s": smoothing_s}
    failed = 0
    for video in videos:
        target = out_dir / f"{video.stem}.json"
        arrays = target.with_suffix(".npz")
        if _is_done(target, video, settings) and (not maps or _is_newer(arrays, video)):
            log.info("%s: there already", target)
            yield target
            continue
        try:
            yield localize_video(
                video,
                predictor,
                out_dir,
                model=model,
                frames_per_second=frames_per_second,
                smoothing_s=smoothing_s,
                maps=maps,
            )
        except DataError as error:
            failed += 1
            log.warning("left out: %s", error)
    if failed:
        raise DataError(f"{folder}: {failed} of {len(videos)} videos could not be localized")


def _is_done(target: Path, video: Path, settings: Mapping[str, object]) -> bool:
    try:
        record = json.loads(target.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return (
        isinstance(record, dict)
        and {"video": video.name, **settings}.items() <= record.items()
        and _is_newer(target, video)
    )


def _is_newer(target: Path, video: Path) -> bool:
    return target.is_file() and target.stat().st_mtime >= video.stat().st_mtime
