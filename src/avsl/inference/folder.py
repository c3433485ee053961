"""Localize in every video of a folder."""

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
    """Write where the sound comes from in every video of a folder, not of the folders in it.

    A video whose result by the same model with the same settings is there already, and not older than the video, is
    left as it is, so that a killed call goes on where it stopped. A video that cannot be used is reported; the rest is
    done.

    Args:
        folder: holds videos, told by their names' endings.
        predictor: the model.
        out_dir: gets for each what :func:`avsl.inference.video.localize_video` writes.
        model: where the model is from, for the record.
        frames_per_second: times in a second.
        smoothing_s: time constant of the average over time, in seconds.
        maps: whether to write the maps as arrays too.

    Yields:
        Each video's JSON file, in order of the videos' names.

    Raises:
        DataError: there is no video, two would have the same result, or, at the end, some could not be used.
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
