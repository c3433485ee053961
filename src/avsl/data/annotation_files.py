"""Reads published annotation files and lists."""

from __future__ import annotations

import codecs
import csv
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from avsl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_Row = TypeVar("_Row", bound=BaseModel)


def normal_name(name: str) -> str:
    """A name in Unicode form NFC; file systems and tools use both NFC and NFD."""
    return unicodedata.normalize("NFC", name)


Name = Annotated[str, AfterValidator(normal_name)]
"""A sample's name in an annotation file."""


def _encoding(path: Path) -> str:
    """The encoding of a text file by its byte-order mark; UTF-8 without one."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def read_table(path: Path, columns: int, what: str) -> Iterator[list[str]]:
    """Iterate over the rows of a CSV without a header.

    Args:
        path: the file; empty lines are skipped.
        columns: smallest number of values of a row.
        what: the file's role, for the error.

    Raises:
        DataError: the file is missing, unreadable, not UTF-8, not a CSV or empty, or a row is too short; names the
            file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    empty = True
    try:
        with path.open(encoding=_encoding(path)) as file:
            for number, row in enumerate(csv.reader(line.rstrip("\n") for line in file), start=1):
                cells = [normal_name(cell.strip()) for cell in row]
                if not any(cells):
                    continue
                if len(cells) < columns or not all(cells[:columns]):
                    said = f"row {number} does not have the {columns} values of the {what}: {','.join(row)!r}"
                    raise DataError(f"{path}: {said}")
                empty = False
                yield cells
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from error
    if empty:
        raise DataError(f"{path}: the {what} is empty")


def read_list(path: Path, what: str) -> list[str]:
    """The ids of a list, one a line (first column of a CSV).

    Raises:
        DataError: as for `read_table`, or an id is listed twice.
    """
    ids = [row[0] for row in read_table(path, 1, what)]
    for name, times in Counter(ids).items():
        if times > 1:
            raise DataError(f"{path}: '{name}' is listed {times} times")
    return ids


def read_json_rows(path: Path, model: type[_Row]) -> list[_Row]:
    """Read a JSON list of ``model``.

    Raises:
        DataError: the file is missing, unreadable, not JSON or empty, or a row is invalid; names the row and the
            key.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    try:
        content = path.read_text(_encoding(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
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


BoxForm = Literal["xyxy", "xywh"]
BoxUnits = Literal["fractions", "pixels"]
_HEADERS: dict[BoxForm, list[str]] = {
    "xyxy": ["file", "class", "x0", "y0", "x1", "y1"],
    "xywh": ["file", "class", "x", "y", "width", "height"],
}
_ROLES = ("classes", "recordings")
# Tolerance for rounding. VGG-SS has a few boxes far below 0 and none above 1.
_ROUNDING, _NO_FRACTION = 0.02, 1.5
# Share of a file's boxes that may be invalid for other reasons than the convention.
_FEW = 0.05


@dataclass(frozen=True, slots=True)
class Annotation:
    """The annotation of a sample in a file.

    Attributes:
        label: class name.
        boxes: (k, 4) x0, y0, x1, y1, in the file's units; k = 0 where nothing in view sounds.
        recording: the recording of the sample; empty if the file does not name it.
    """

    label: str
    boxes: NDArray[np.float64]
    recording: str = ""


class _BoxRow(BaseModel):
    file: Name
    label: str = Field(alias="class")
    bbox: list[tuple[float, float, float, float]]
    recording: Name = ""


def read_annotations(path: Path, form: BoxForm = "xyxy", units: BoxUnits = "fractions") -> dict[str, Annotation]:
    """Annotations by sample id, in the file's order.

    Args:
        path: VGG-SS's JSON, a list of ``file``, ``class`` and ``bbox``; or a CSV with the columns file, class, x0, y0,
            x1, y1 (or x, y, width, height), one box per row, without numbers if nothing in view sounds. Either may
            have a ``recording``.
        form: form of the boxes: two corners, or a corner, width and height.
        units: units of the boxes: fractions of the frame, or pixels of the file's picture.

    Raises:
        DataError: the file is missing, not of that form, names an id twice (JSON) or with two classes or recordings
            (CSV), or its boxes as a whole follow another convention; names the likely one.
    """
    read = _read_box_table if path.suffix.lower() == ".csv" else _read_box_list
    annotated = read(path, form)
    drawn = [(name, box) for name, known in annotated.items() for box in known.boxes]
    if drawn:
        _check_convention(path, [name for name, _ in drawn], as_boxes([box for _, box in drawn]), form, units)
    if form == "xywh":
        for known in annotated.values():
            known.boxes[:, 2:] += known.boxes[:, :2]
    return annotated


def _check_convention(
    path: Path, names: Sequence[str], boxes: NDArray[np.float64], form: BoxForm, units: BoxUnits
) -> None:
    """Refuse boxes if the values of the whole file indicate another form or other units."""

    def refuse(wrong: Any, what: str, setting: str) -> None:
        first = int(wrong.argmax())
        numbers = ", ".join(f"{number:g}" for number in boxes[first])
        raise DataError(
            f"{path}: {wrong.sum()} of {len(boxes)} boxes {what}, as [{numbers}] of '{names[first]}': {setting}"
        )

    beyond = (boxes > _NO_FRACTION).any(axis=1)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1) & (boxes >= -_ROUNDING).all(axis=1)
    outside = (boxes[:, :2] + boxes[:, 2:] > 1 + _ROUNDING).any(axis=1)
    if units == "fractions" and beyond.any():
        pixels = "if they are in pixels, data=folder reads them with data.folder.units=pixels"
        refuse(beyond, "are not fractions of the frame", pixels)
    if units == "pixels" and not (boxes > 1).any():
        refuse(~beyond, "are at most 1", "if they are fractions of the frame, set data.folder.units=fractions")
    if form == "xyxy" and (inverted.mean() > _FEW or (inverted.any() and units == "fractions" and not outside.any())):
        corner = "if they are x, y, width, height, data=folder reads them with data.folder.boxes=xywh"
        refuse(inverted, "end before they begin", corner)
    if form == "xywh" and units == "fractions" and outside.mean() > _FEW:
        refuse(outside, "leave the frame", "if they are x0, y0, x1, y1, set data.folder.boxes=xyxy")


def _read_box_list(path: Path, _: BoxForm) -> dict[str, Annotation]:
    annotated: dict[str, Annotation] = {}
    for row in read_json_rows(path, _BoxRow):
        if row.file in annotated:
            raise DataError(f"{path}: '{row.file}' is annotated twice")
        annotated[row.file] = Annotation(row.label, as_boxes(row.bbox), row.recording)
    return annotated


def _read_box_table(path: Path, form: BoxForm) -> dict[str, Annotation]:
    header, *rows = read_table(path, 2, "annotation file")
    other = next((name for name, columns in _HEADERS.items() if name != form and header[:6] == columns), "")
    if other:
        raise DataError(f"{path}: its columns are {','.join(header)}: set boxes={other}")
    if header[:6] != _HEADERS[form] or header[6:] not in ([], ["recording"]):
        expected = f"{','.join(_HEADERS[form])}[,recording]"
        raise DataError(f"{path}: its first row is {','.join(header)!r}, not {expected!r}")
    known: dict[str, tuple[str, str]] = {}
    boxes: dict[str, list[list[float]]] = {}
    for number, (name, label, *cells) in enumerate(rows, start=2):
        numbers, recording = cells[:4], "".join(cells[4:5])
        for was, now, what in zip(known.setdefault(name, (label, recording)), (label, recording), _ROLES, strict=True):
            if was != now:
                raise DataError(f"{path}: '{name}' has the {what} '{was}' and '{now}'")
        drawn = boxes.setdefault(name, [])
        if any(numbers):
            try:
                a, b, c, d = map(float, numbers)
            except ValueError:
                raise DataError(f"{path}: row {number} does not have four numbers for '{name}': {numbers}") from None
            drawn.append([a, b, c, d])
    return {name: Annotation(label, as_boxes(boxes[name]), recording) for name, (label, recording) in known.items()}


def as_boxes(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(k, 4); k may be 0."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


class _PixelRow(BaseModel):
    image: str
    audio: str
    gt_box: tuple[float, float, float, float]


def read_pixel_boxes(path: Path) -> list[tuple[str, str, NDArray[np.float64]]]:
    """Frame, sound and box of each row of the interactive benchmark's lists (Senocak et al., arXiv 2407.13676).

    The lists hold paths of their authors' machine, of which the part after ``visual_frames/`` and ``audio_wav/`` is
    used. Boxes are in pixels of a 224 px frame, the end exclusive; a box of zeros means that nothing in view sounds.

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
