"""Any folder: videos, or frames and sounds, with or without boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.schema import ConfigError

Prepare = Callable[..., PreparedData]


def test_videos_without_boxes_are_unlabeled_rows(
    tmp_path: Path,
    prepare: Prepare,
    add_clip: Callable[[Path, int, float], None],
    tones: Callable[[PreparedData, int], set[int]],
) -> None:
    """Whatever the container; other files are no samples."""
    root = tmp_path / "videos"
    add_clip(root / "b.mkv", 200, 700)
    add_clip(root / "a.mp4", 60, 300)
    (root / "notes.txt").write_text("x")
    data = prepare("folder", root)
    assert data.sample_ids == ["a", "b"]
    assert set(data.parts) == {"train"}
    assert data.boxes(0) is None
    np.testing.assert_allclose(data.frames(np.array([0, 1])).mean(axis=(1, 2, 3)), [60, 200], atol=6)
    assert [tones(data, row) for row in (0, 1)] == [{300}, {700}]


def test_boxes_from_a_table_are_cut_by_share(
    tmp_path: Path, prepare: Prepare, add_row: Callable[[Path, str, int], None]
) -> None:
    """Annotated rows have a side; what is not annotated is for training."""
    root = tmp_path / "media"
    for k in range(4):
        add_row(root, f"s{k}", k)
    (root / "boxes.csv").write_text("file,class,x0,y0,x1,y1\ns1,c,0,0,0.5,1\ns1,c,0.5,0.5,1,1\ns2,d,,,,\n")
    data = prepare("folder", root, annotations="boxes.csv", test_share=1.0)
    assert data.sample_ids == ["s1", "s2", "s0", "s3"]
    assert data.parts.tolist() == ["test", "test", "train", "train"]
    assert data.labels.tolist() == ["c", "d", "", ""]
    np.testing.assert_array_equal(data.boxes(0), np.array([[0, 0, 0.5, 1], [0.5, 0.5, 1, 1]], np.float32))
    assert data.boxes(1).shape == (0, 4)  # type: ignore[union-attr]  # annotated


def test_an_unusable_folder_is_named(tmp_path: Path, prepare: Prepare) -> None:
    """Nothing in it, or no such file."""
    with pytest.raises(DataError, match=facts(tmp_path)):
        prepare("folder", tmp_path)
    with pytest.raises(DataError, match=facts("/no/such/folder")):
        prepare("folder", Path("/no/such/folder"))


@pytest.mark.parametrize("units", ["fractions", "pixels"])
def test_boxes_in_either_units_are_the_same(
    tmp_path: Path, prepare: Prepare, add_row: Callable[[Path, str, int], None], units: str
) -> None:
    """A picture is 60 x 40; a box in pixels that leaves it makes its row unusable."""
    root = tmp_path / "media"
    width, height = (60, 40) if units == "pixels" else (1, 1)
    lines = [f"s1,c,{0.5 * width},{0.25 * height},{0.5 * width},{0.75 * height}"]
    lines += [f"s2.png,c,0,0,{width},{height}"] + ["s3,c,50,0,20,10"] * (units == "pixels")
    for k in range(1, len(lines) + 1):
        add_row(root, f"s{k}", k)
    (root / "boxes.csv").write_text("\n".join(["file,class,x,y,width,height", *lines]))
    data = prepare("folder", root, annotations="boxes.csv", boxes="xywh", units=units, max_broken=0.5)
    boxes = {name: data.boxes(row) for row, name in enumerate(data.sample_ids)}
    assert boxes.keys() == {"s1", "s2"}
    np.testing.assert_allclose(boxes["s1"], [[0.5, 0.25, 1, 1]])  # type: ignore[arg-type]  # annotated
    np.testing.assert_allclose(boxes["s2"], [[0, 0, 1, 1]])  # type: ignore[arg-type]  # annotated


@pytest.mark.parametrize("how", ["names", "column", "pattern"])
def test_rows_of_one_recording_lie_on_one_side(
    tmp_path: Path, read_index: Callable[..., Index], add_row: Callable[[Path, str, int], None], how: str
) -> None:
    """By the usual names, a column or a pattern; what nobody annotated goes with its recording, and it is reported."""
    root = tmp_path / "media"
    join = {"names": "{}_{:04d}", "column": "{}x{}", "pattern": "{}take{}"}[how]
    names = [join.format(f"concert{letter}", k) for letter in "ABCD" for k in range(4)]
    for name in names:
        add_row(root, name, 1)
    column = how == "column"
    lines = [f"{name},c,0,0,1,1" + f",{name[:8]}" * column for name in names if name[-1] != "3"]
    (root / "boxes.csv").write_text("\n".join(["file,class,x0,y0,x1,y1" + ",recording" * column, *lines]))
    pattern = r"(.+)take\d" if how == "pattern" else ""
    index = read_index("folder", root, annotations="boxes.csv", test_share=0.5, recording_pattern=pattern)
    rows = [row for row in index.entries if row.annotated or not column]
    parts = {(row.source_id, row.part) for row in rows}
    assert {source for source, _ in parts} == {f"concert{letter}" for letter in "ABCD"}
    assert len(parts) == 4
    assert {part for _, part in parts} > {"test"}
    assert (index.left_out == 0) is column, "the fourth clip of a held-out recording, unless nothing says whose it is"
    assert any("16 clips of" in note and "recordings" in note for note in index.notes)


def test_a_wrong_pattern_and_a_name_twice_are_refused(
    tmp_path: Path, read_index: Callable[..., Index], add_row: Callable[[Path, str, int], None]
) -> None:
    """By key and by file."""
    root = tmp_path / "media"
    add_row(root, "a", 1)
    for pattern in ("(", "a", "(a)(b)"):
        with pytest.raises(ConfigError, match=r"data\.folder\.recording_pattern"):
            read_index("folder", root, recording_pattern=pattern)
    (root / "boxes.csv").write_text("file,class,x0,y0,x1,y1\na,c,0,0,1,1\na.png,c,0,0,1,1\n")
    with pytest.raises(DataError, match=facts("boxes.csv 'a' 'a.png'")):
        read_index("folder", root, annotations="boxes.csv")


@pytest.mark.slow
@pytest.mark.parametrize("annotations", ["", "boxes.json"])
def test_real_clips(real_clips: Path, prepare: Prepare, annotations: str) -> None:
    """Four real videos, with their boxes or without."""
    data = prepare("folder", real_clips, annotations=annotations, duration_s=1.0)
    assert sorted(data.sample_ids) == sorted(path.stem for path in real_clips.glob("*.mp4"))
    assert data.annotated.tolist() == [bool(annotations)] * 4
    assert data.waveforms(np.arange(4)).std(axis=1).min() > 1e-3
