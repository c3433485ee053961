"""What all data sets share in listing: parts by source, leaks, readers of published files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from avsl.data.annotation_files import read_annotations, read_json_rows, read_list, read_pixel_boxes, source_of
from avsl.data.index import CutConfig, Entry, Leak
from avsl.data.listing import Media, files_by_id, mixed_rows
from avsl.data.partition import add_pool, add_training_list, assign_parts
from avsl.errors import DataError


def rows(*names: str, part: str = "") -> list[Entry]:
    """A row for each name, of the source that `source_of` tells."""
    return [Entry(name, source_of(name), name, part=part) for name in names]


def test_clips_of_one_video_share_a_part_and_nobody_moves_when_others_come() -> None:
    """Parts are decided per video, independently of the others."""
    names = [f"video{k:06d}_{start:06d}" for k in range(2000) for start in (0, 30)]
    settings = CutConfig(root=".", validation_share=0.1, test_share=0.25)
    parts = {entry.sample_id: entry.part for entry in assign_parts(rows(*names), settings)}
    assert all(parts[names[i]] == parts[names[i + 1]] for i in range(0, len(names), 2))
    shares = Counter(parts.values())
    assert shares["test"] / len(names) == pytest.approx(0.25, abs=0.03)
    assert shares["validation"] / len(names) == pytest.approx(0.075, abs=0.02)
    fewer = assign_parts(rows(*names[:500]), settings)
    assert all(parts[entry.sample_id] == entry.part for entry in fewer)
    listed = assign_parts(rows(*names), settings, {source_of(names[0])})
    assert [entry.sample_id for entry in listed if entry.part == "test"] == names[:2]
    assert {entry.part for entry in assign_parts(rows(*names), CutConfig(root="."))} == {"test"}
    assert source_of("scene_00001") == "scene_00001"


def test_what_is_held_out_never_becomes_a_training_row() -> None:
    """Rows and sources of held-out parts leave the pool; a labeled training row is not listed twice."""
    held = [*rows("abcdefghijk_000010", part="test"), *rows("ABCDEFGHIJK_000010", part="validation")]
    entries = [*held, *rows("labeled", part="train")]
    pool = rows("abcdefghijk_000010", "abcdefghijk_000040", "ABCDEFGHIJK_000040", "labeled", "new", part="train")
    leaks = [
        Leak("abcdefghijk_000010", "test", True),
        Leak("abcdefghijk_000040", "test", False),
        Leak("ABCDEFGHIJK_000040", "validation", False),
    ]
    index = add_training_list(entries, pool, "drop", Path("list.txt"), "data.x.leak", left_out=2)
    assert [(entry.sample_id, entry.part) for entry in [*index.entries][3:]] == [("new", "train")]
    assert list(index.leaks) == leaks
    assert index.left_out == 2
    with pytest.raises(
        DataError,
        match=r"^list\.txt: 3 of its 5 rows are held out: 1 are rows of 'test', 1 share a source with rows of "
        r"'test', 1 share a source with rows of 'validation'; data\.x\.leak=drop leaves them out$",
    ):
        add_training_list(entries, pool, "stop", Path("list.txt"), "data.x.leak")
    silent = Entry("a+b", "a", "a", part="test_offscreen", sound_source="b")
    (leak,) = add_training_list([silent], rows("b", "c", part="train"), "drop", Path("list.txt"), "data.x.leak").leaks
    assert leak == Leak("b", "test_offscreen", False), "its sound is held out as its frame is"
    quiet = add_pool(entries, pool)
    assert [entry.sample_id for entry in [*quiet.entries][3:]] == ["new"]
    assert (quiet.left_out, list(quiet.leaks)) == (3, [])


def test_a_mixture_keeps_each_frames_own_boxes() -> None:
    """Two rows, both with both sounds; a pair with a clip that is learned from is left out."""
    one, other, learned = (
        Entry(
            *(name, name, name),
            part="test" if name in "ab" else "train",
            label=name,
            picture=Path(name),
            sounds=(Path(f"{name}.wav"),),
            boxes=np.eye(4)[:k],
        )
        for k, name in enumerate("abc", start=1)
    )
    mixed, left_out = mixed_rows([(one, other), (one, learned), (learned, learned)], "test_duet")
    assert left_out == 4
    assert [row.sample_id for row in mixed] == ["a+b/0", "a+b/1"]
    assert [(row.picture, row.label, len(row.boxes if row.boxes is not None else ())) for row in mixed] == [
        (Path("a"), "a", 1),
        (Path("b"), "b", 2),
    ]
    assert {row.sounds for row in mixed} == {(Path("a.wav"), Path("b.wav"))}
    assert {row.part for row in mixed} == {"test_duet"}
    assert [row.meta for row in mixed] == [{"sounding": ["a", "b"]}] * 2


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
        assert first[name][0] == second[name][0]
        np.testing.assert_array_equal(first[name][1], second[name][1])
        assert first[name][1].shape == ({"a": 2, "b": 0}[name], 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[", r"a\.json: not valid JSON"),
        ("a.json", "{}", r"a\.json: not a list of annotations"),
        ("a.json", "[]", r"a\.json: holds no annotation"),
        ("a.json", '[{"file": "a", "class": "c", "bbox": [[0, 0, 1]]}]', r"a\.json: row 0, 'bbox\.0\.3': field"),
        ("a.json", '[{"file": "a", "class": "c", "bbox": []}, {"file": "b"}]', r"a\.json: row 1, 'class'"),
        ("a.json", json.dumps([{"file": "a", "class": "c", "bbox": []}] * 2), "'a' is annotated twice"),
        ("a.csv", "file,class\na,b\n", r"a\.csv: its first row is 'file,class'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1\n", r"a\.csv: row 2 has not four numbers for 'a'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1,x\n", r"a\.csv: row 2 has not four numbers for 'a'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,b,0,0,1,1\na,c,0,0,1,1\n", r"a\.csv: 'a' has the classes 'b' and 'c'"),
        ("a.csv", "file,class,x0,y0,x1,y1\na,,0,0,1,1\n", r"a\.csv: row 2 has not the 2 values"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    """One sentence with the file and the row."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_annotations(path)


def test_wrong_lists_and_folders_are_named(tmp_path: Path) -> None:
    """Missing, empty, repeated and ambiguous."""
    path = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"list\.txt: no such test list"):
        read_list(path, "test list")
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"list\.txt: the test list is empty"):
        read_list(path, "test list")
    path.write_text("a,1\nb,2\na,3\n")
    with pytest.raises(DataError, match=r"list\.txt: 'a' is listed 2 times"):
        read_list(path, "test list")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list\.txt: not a text file"):
        read_list(path, "test list")
    with pytest.raises(DataError, match="none: no such folder"):
        Media.read(tmp_path / "none")
    with pytest.raises(DataError, match="holds neither clips"):
        Media.read(tmp_path)
    for suffix in ("jpg", "PNG"):
        (tmp_path / f"a.{suffix}").touch()
    with pytest.raises(DataError, match=r"both 'a\.(jpg|PNG)' and 'a\.(jpg|PNG)' are there"):
        files_by_id(tmp_path, (".jpg", ".png"))

    class Row(BaseModel):
        file: str

    with pytest.raises(DataError, match=r"none\.json: no such annotation file"):
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
        with pytest.raises(DataError, match=r"boxes\.json: row 0: no file in visual_frames/"):
            read_pixel_boxes(path)
