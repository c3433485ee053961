"""The list of exported frames, ``labels/tasks.csv``, which maps files of a task folder to clips."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avsl.errors import DataError
from avsl.labels.rounds import read_rows, write_table

_FILE = "tasks.csv"
_COLUMNS = ("id", "file", "width", "height")


@dataclass(frozen=True)
class Frame:
    """An exported frame.

    Attributes:
        id: the clip.
        file: name of the frame in task folders, without a suffix.
        width: pixels.
        height: pixels.
    """

    id: str
    file: str
    width: int
    height: int


def read_frames(labels: Path) -> dict[str, Frame]:
    """Read the exported frames by clip; none before the first export.

    Raises:
        DataError: the file was not written by an export.
    """
    path = labels / _FILE
    try:
        return {row[0]: Frame(row[0], row[1], int(row[2]), int(row[3])) for row in read_rows(path, _COLUMNS)}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def write_frames(labels: Path, frames: Iterable[Frame]) -> None:
    """Write the list atomically."""
    write_table(labels / _FILE, _COLUMNS, ((f.id, f.file, f.width, f.height) for f in frames))


def file_name(name: str, taken: Iterable[str]) -> str:
    """Return a unique name that is valid for all file systems and tools."""
    plain = stem = re.sub(r"[^A-Za-z0-9.-]+", "_", name)
    used = {other.lower() for other in taken}
    number = 1
    while stem.lower() in used:
        number += 1
        stem = f"{plain}-{number}"
    return stem
