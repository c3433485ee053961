"""Annotation files and lists: what is read from them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from tests.fixtures.messages import facts

from avsl.data.annotation_files import BoxForm, BoxUnits, read_annotations, read_json_rows, read_list, read_pixel_boxes
from avsl.errors import DataError

Boxes = Sequence[Sequence[float]]


@pytest.fixture
def boxes_file(tmp_path: Path) -> Path:
    """Where the annotations lie."""
    return tmp_path / "boxes.json"


def write(path: Path, boxes: Boxes, **more: str) -> Path:
    """An annotation file of one box a sample: ``s0``, ``s1`` and so on."""
    path.write_text(json.dumps([{"file": f"s{k}", "class": "c", "bbox": [box]} | more for k, box in enumerate(boxes)]))
    return path


def test_boxes_are_read_from_json_and_csv(tmp_path: Path) -> None:
    """The same annotations in both forms; no box says that nothing sounds."""
    as_json, as_csv = tmp_path / "boxes.json", tmp_path / "boxes.csv"
    as_json.write_text(
        json.dumps(
            [
                {"file": "a", "class": "dog, barking", "bbox": [[0, 0, 0.5, 1], [0.25, 0.5, 1, 1]]},
                {"file": "b", "class": "cat", "bbox": []},
            ]
        )
    )
    as_csv.write_text('file,class,x0,y0,x1,y1\na,"dog, barking",0,0,0.5,1\nb,cat,,,,\na,"dog, barking",0.25,0.5,1,1\n')
    first, second = read_annotations(as_json), read_annotations(as_csv)
    assert list(first) == list(second) == ["a", "b"]
    for name in "ab":
        assert first[name].label == second[name].label
        np.testing.assert_array_equal(first[name].boxes, second[name].boxes)
        assert first[name].boxes.shape == ({"a": 2, "b": 0}[name], 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("json", '[{"file": "cafe\u0301", "class": "c", "bbox": []}]'),
        ("csv", "file,class,x0,y0,x1,y1\ncafe\u0301,c,,,,"),
    ],
)
def test_names_are_composed_whatever_the_encoding(tmp_path: Path, encoding: str, suffix: str, text: str) -> None:
    """Decomposed characters, as a Mac writes them, and byte-order marks, as Windows does."""
    path = tmp_path / f"boxes.{suffix}"
    path.write_text(text, encoding)
    assert list(read_annotations(path)) == ["caf\u00e9"]


def test_a_recording_is_read_from_both(tmp_path: Path) -> None:
    """A column of the table, a key of the list."""
    table = tmp_path / "boxes.csv"
    table.write_text("file,class,x,y,width,height,recording\na,c,0,0,0.5,0.5,monday\nb,c,,,,,\n")
    assert [row.recording for row in read_annotations(table, "xywh").values()] == ["monday", ""]
    (row,) = read_annotations(write(tmp_path / "boxes.json", [[0, 0, 1, 1]], recording="monday")).values()
    assert row.recording == "monday"


FRACTIONS, CORNERS = [[0.5, 0.5, 0.7, 0.9], [0.1, 0.6, 0.6, 1.0]], [[30, 40, 200, 100], [0, 0, 12, 9]]
SIZES = [[0.5, 0.6, 0.2, 0.4], [0.1, 0.1, 0.8, 0.3], [0.0, 0.0, 0.2, 0.2]]
PIXEL_SIZES = [[300, 200, 60, 40], [10, 20, 30, 40]]


@pytest.mark.parametrize(
    ("boxes", "form", "units", "likely"),
    [
        (CORNERS, "xyxy", "fractions", "units=pixels"),
        (PIXEL_SIZES, "xywh", "fractions", "units=pixels"),
        ([*FRACTIONS, [3, 3, 9, 9]], "xyxy", "fractions", "units=pixels"),
        (SIZES, "xyxy", "fractions", "boxes=xywh"),
        (PIXEL_SIZES, "xyxy", "pixels", "boxes=xywh"),
        (FRACTIONS, "xywh", "fractions", "boxes=xyxy"),
        (FRACTIONS, "xyxy", "pixels", "units=fractions"),
    ],
)
def test_boxes_of_another_convention_are_refused(
    boxes_file: Path, boxes: Boxes, form: BoxForm, units: BoxUnits, likely: str
) -> None:
    """The message names the file, how many, the first and the setting that fits."""
    write(boxes_file, boxes)
    with pytest.raises(DataError, match=facts(f"boxes.json {len(boxes)} {likely}")):
        read_annotations(boxes_file, form, units)


@pytest.mark.parametrize(
    ("boxes", "form", "units"),
    [
        (FRACTIONS, "xyxy", "fractions"),
        (SIZES, "xywh", "fractions"),
        (CORNERS, "xyxy", "pixels"),
        (PIXEL_SIZES, "xywh", "pixels"),
        ([*FRACTIONS, [0.3, 0.4, 0.9, -2.88e16]], "xyxy", "fractions"),
    ],
)
def test_boxes_of_the_stated_convention_become_corners(
    boxes_file: Path, boxes: Boxes, form: BoxForm, units: BoxUnits
) -> None:
    """Whatever the form; the few numbers of VGG-SS that are none stay for the cleaning."""
    found = read_annotations(write(boxes_file, boxes), form, units)
    expected = [[x, y, x + c, y + d] if form == "xywh" else [x, y, c, d] for x, y, c, d in boxes]
    np.testing.assert_allclose([row.boxes[0] for row in found.values()], expected)


def test_a_header_of_another_form_is_refused(tmp_path: Path) -> None:
    """The columns say what they hold."""
    path = tmp_path / "boxes.csv"
    path.write_text("file,class,x,y,width,height\na,c,0,0,0.5,0.5\n")
    with pytest.raises(DataError, match=facts("boxes.csv boxes=xywh")):
        read_annotations(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[", "a.json JSON"),
        ("a.json", "{}", "a.json list"),
        ("a.json", "[]", "a.json annotation"),
        ("a.json", '[{"file": "a", "class": "c", "bbox": [[0, 0, 1]]}]', "a.json 0 bbox.0.3"),
        ("a.json", '[{"file": "a", "class": "c", "bbox": []}, {"file": "b"}]', "a.json 1 'class'"),
        ("a.json", json.dumps([{"file": "a", "class": "c", "bbox": []}] * 2), "'a' twice"),
        ("a.csv", "file,class\na,b\n", "a.csv 'file,class'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1\n", "a.csv 2 'a'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1,x\n", "a.csv 2 'a'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1,1\na,c,0,0,1,1\n", "a.csv 'a' 'b' 'c'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,,0,0,1,1\n", "a.csv 2"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    """One sentence with the file and the row."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=facts(message)):
        read_annotations(path)


def test_wrong_lists_are_named(tmp_path: Path) -> None:
    """Missing, empty, repeated, no text."""
    path = tmp_path / "list.txt"
    with pytest.raises(DataError, match=facts("list.txt")):
        read_list(path, "test list")
    path.write_text("\n\n")
    with pytest.raises(DataError, match=facts("list.txt empty")):
        read_list(path, "test list")
    path.write_text("a,1\nb,2\na,3\n")
    with pytest.raises(DataError, match=facts("list.txt 'a' 2")):
        read_list(path, "test list")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=facts("list.txt text")):
        read_list(path, "test list")

    class Row(BaseModel):
        file: str

    with pytest.raises(DataError, match=facts("none.json")):
        read_json_rows(tmp_path / "none.json", Row)


def test_pixel_boxes_name_files_below_their_folders(tmp_path: Path) -> None:
    """The authors' own folder falls away; what leaves the data set's folder is refused."""
    path = tmp_path / "boxes.json"
    row = {"image": "/x/visual_frames/t/a_1.png", "audio": "/x/audio_wav/t/a.wav", "gt_box": [56, 0, 224, 112]}
    path.write_text(json.dumps([row, row | {"gt_box": [0, 0, 0, 0]}]))
    (image, audio, boxes), (_, _, none) = read_pixel_boxes(path)
    assert (image, audio) == ("t/a_1.png", "t/a.wav")
    np.testing.assert_array_equal(boxes, [[0.25, 0, 1, 0.5]])
    assert none.shape == (0, 4)
    for wrong in ("/x/frames/a.png", "/x/visual_frames/../../a.png", "/x/visual_frames//a.png"):
        path.write_text(json.dumps([row | {"image": wrong}]))
        with pytest.raises(DataError, match=facts("boxes.json 0 visual_frames/")):
            read_pixel_boxes(path)
