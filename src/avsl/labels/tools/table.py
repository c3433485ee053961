"""A CSV that is filled in by hand: file, class, x0, y0, x1, y1 in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avsl.data.annotation_files import read_annotations
from avsl.labels.rounds import write_table
from avsl.labels.tools.task import FRAMES, SOUND, Answer, Task, Tool

_FILE = "boxes.csv"
_HEADER = ("file", "class", "x0", "y0", "x1", "y1")


def _write(folder: Path, tasks: Sequence[Task]) -> list[str]:
    rows = [(f"{task.file}.jpg", SOUND, *(f"{x:g}" for x in box)) for task in tasks for box in task.boxes.tolist()]
    write_table(folder / _FILE, _HEADER, rows)
    return [
        f"For each picture of `{FRAMES}` write into {_FILE} a row for every source that sounds, in pixels,",
        "or one row without numbers where nothing in view sounds.",
    ]


def _read(path: Path) -> list[Answer]:
    return [
        Answer(name, "", [(a, b, c, d) for a, b, c, d in known.boxes.tolist()], silent=not len(known.boxes))
        for name, known in read_annotations(path, units="pixels").items()
    ]


def _recognizes(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


TOOL = Tool(_write, _read, _recognizes)
