"""Reads published annotation files and lists."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from avsl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


# A VGGSound clip is named after its video and the second it starts at.
_CLIP_NAME = re.compile(r"(?P<video>.{11})_\d{6}")


_Row = TypeVar("_Row", bound=BaseModel)


def source_of(sample_id: str) -> str:
    """The video a VGGSound clip was cut from; any other id is its own source."""
    match = _CLIP_NAME.fullmatch(sample_id)
    return match["video"] if match else sample_id


def read_table(path: Path, columns: int, what: str) -> Iterator[list[str]]:
    """The rows of a CSV without a header, one after the other.

    Args:
        path: the file; empty lines do not count.
        columns: how many a row has at least.
        what: the file's role, for the error.

    Raises:
        DataError: the file is missing, cannot be read, no UTF-8 text, no CSV or empty, or a row is too short; names it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(line.rstrip("\n") for line in file), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if len(cells) < columns or not all(cells[:columns]):
                    said = f"row {number} has not the {columns} values of the {what}: {','.join(row)!r}"
                    raise DataError(f"{path}: {said}")
                empty = False
                yield cells
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from error
    if empty:
        raise DataError(f"{path}: the {what} is empty")


def read_list(path: Path, what: str) -> list[str]:
    """The ids of a list, one a line (first column of a CSV).

    Raises:
        DataError: as `read_table`, or an id is listed twice.
    """
    ids = [row[0] for row in read_table(path, 1, what)]
    for name, times in Counter(ids).items():
        if times > 1:
            raise DataError(f"{path}: '{name}' is listed {times} times")
    return ids


def read_json_rows(path: Path, model: type[_Row]) -> list[_Row]:
    """A JSON list of ``model``.

    Raises:
        DataError: the file is missing, cannot be read, no JSON or empty, or a row is not of that form; names the row
            and the key.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        rows: list[_Row] = TypeAdapter(list[model]).validate_json(content)  # type: ignore[valid-type]  # a type made at run time
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise DataError(f"{path}: not valid JSON: {first['ctx']['error']}") from None
        if not first["loc"]:
            raise DataError(f"{path}: not a list of annotations") from None
        row, *where = first["loc"]
        place = f"row {row}" + (f", '{'.'.join(map(str, where))}'" if where else "")
        raise DataError(f"{path}: {place}: {first['msg'].lower()}") from None
    if not rows:
        raise DataError(f"{path}: holds no annotation")
    return rows


class _BoxRow(BaseModel):
    file: str
    label: str = Field(alias="class")
    bbox: list[tuple[float, float, float, float]]


def read_annotations(path: Path) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Class and boxes as annotated, (k, 4) x0, y0, x1, y1, by sample id, in the file's order.

    Args:
        path: VGG-SS's JSON, a list of ``file``, ``class`` and ``bbox``; or a CSV with the columns file, class, x0, y0,
            x1, y1, one box a row and without numbers where nothing in view sounds. Fractions of the frame.

    Raises:
        DataError: the file is missing, not of that form, or names an id twice (JSON) or with two classes (CSV).
    """
    annotated: dict[str, tuple[str, NDArray[np.float64]]] = {}
    if path.suffix.lower() == ".csv":
        return _read_box_table(path)
    for row in read_json_rows(path, _BoxRow):
        if row.file in annotated:
            raise DataError(f"{path}: '{row.file}' is annotated twice")
        annotated[row.file] = row.label, as_boxes(row.bbox)
    return annotated


def _read_box_table(path: Path) -> dict[str, tuple[str, NDArray[np.float64]]]:
    header, *rows = read_table(path, 2, "annotation file")
    expected = ["file", "class", "x0", "y0", "x1", "y1"]
    if header != expected:
        raise DataError(f"{path}: its first row is {','.join(header)!r}, not {','.join(expected)!r}")
    labels: dict[str, str] = {}
    boxes: dict[str, list[list[float]]] = {}
    for number, (name, label, *corners) in enumerate(rows, start=2):
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}: '{name}' has the classes '{labels[name]}' and '{label}'")
        drawn = boxes.setdefault(name, [])
        if any(corners):
            try:
                x0, y0, x1, y1 = map(float, corners)
            except ValueError:
                raise DataError(f"{path}: row {number} has not four numbers for '{name}': {corners}") from None
            drawn.append([x0, y0, x1, y1])
    return {name: (label, as_boxes(boxes[name])) for name, label in labels.items()}


def as_boxes(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(k, 4); k may be 0."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


class _PixelRow(BaseModel):
    image: str
    audio: str
    gt_box: tuple[float, float, float, float]


def read_pixel_boxes(path: Path) -> list[tuple[str, str, NDArray[np.float64]]]:
    """Frame, sound and box of each row of the interactive benchmark's lists (Senocak et al., arXiv 2407.13676).

    The lists name files on their authors' machine; what counts begins after ``visual_frames/`` and ``audio_wav/``.
    Boxes are pixels of a 224 px frame, the end exclusive; one of zeros says that nothing in view sounds.

    Returns:
        The frame's and the sound's path in those folders, and (k, 4) fractions, k = 0 or 1, in the file's order.

    Raises:
        DataError: the file is missing or not of that form; names the row.
    """
    rows = []
    for number, row in enumerate(read_json_rows(path, _PixelRow)):
        _, _, image = row.image.partition("/visual_frames/")
        _, _, audio = row.audio.partition("/audio_wav/")
        if not image or not audio or any({"..", "/"} & {*Path(name).parts} for name in (image, audio)):
            raise DataError(f"{path}: row {number}: no file in visual_frames/ and audio_wav/: '{row.image}'")
        rows.append((image, audio, as_boxes([row.gt_box] if any(row.gt_box) else []) / 224))
    return rows
