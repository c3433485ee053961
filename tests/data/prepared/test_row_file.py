"""Rows in a file: they come back as they were, cut by their names, and memory does not hold them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from avsl.data.index import Entry
from avsl.data.listing import Media
from avsl.data.partition import add_pool
from avsl.data.prepared.row_file import RowFile


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Every field, whatever its text; the file is there for the block alone."""
    boxes = np.array([[0.1, 1 / 3, -2.88e16, np.inf]])
    rows = [
        Entry("a\nb\0", "ɹ🐈", "é", "train"),
        Entry("b", "s", "g", "test", "c", tmp_path / "b.mp4", (tmp_path / "b.mp4", None), boxes, moment=0.25),
        Entry("c", "s", "g", "test", mask=Path("m.png"), boxes=np.zeros((0, 4)), time_s=0.1, meta={"x": [1, None]}),
        Entry("d", "s", "g", broken="no boxes"),
    ]
    with RowFile.write(tmp_path / "rows", rows, 2) as file:
        found = list(file)
    assert not list(tmp_path.iterdir())
    for before, after in zip(rows, found, strict=True):
        for field in Entry.__slots__:
            if field != "boxes":
                assert getattr(after, field) == getattr(before, field)
        assert (after.boxes is None) == (before.boxes is None)
        if before.boxes is not None and after.boxes is not None:
            np.testing.assert_array_equal(after.boxes, before.boxes)
            assert after.boxes.shape == before.boxes.shape


@pytest.mark.parametrize("most", [1, 7])
def test_shards_are_cut_by_name(tmp_path: Path, most: int) -> None:
    """None is longer than asked, and a row that goes moves the ends beside it alone."""

    def shards(names: list[str]) -> list[tuple[str, ...]]:
        with RowFile.write(tmp_path / "rows", (Entry(name, name, name) for name in names), most) as file:
            assert file.distinct
            return [tuple(entry.sample_id for entry in file.shard(k)) for k in range(file.n_shards)]

    names = [f"row{k}" for k in range(300)]
    whole = shards(names)
    assert [name for shard in whole for name in shard] == names
    assert max(map(len, whole)) == most
    fewer = shards(names[:150] + names[151:])
    assert len(set(whole) - set(fewer)) <= 3


def test_a_name_twice_is_seen_and_no_rows_are_no_shards(tmp_path: Path) -> None:
    """However far apart the two rows are."""
    names = [*map(str, range(100)), "7"]
    with RowFile.write(tmp_path / "rows", (Entry(name, name, name) for name in names), 4) as file:
        assert not file.distinct
    with RowFile.write(tmp_path / "rows", [], 4) as file:
        assert file.n_shards == 0
        assert list(file) == []


def test_listing_a_folder_and_writing_its_rows_takes_little_memory(tmp_path: Path) -> None:
    """Names while a folder is read and eight bytes a row after that, where a list of rows took a thousand."""
    peaks, sizes = [], (1000, 5000)
    for rows in sizes:
        root = tmp_path / str(rows)
        root.mkdir()
        for k in range(rows):
            (root / f"video{k:06d}_000010.mp4").touch()
        tracemalloc.start()
        try:
            listed = add_pool([], Media.read(root).pool(()))
            with RowFile.write(tmp_path / "rows", listed.entries, 64) as file:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
                del listed
                held = tracemalloc.get_traced_memory()[0]
                assert sum(1 for _ in file) == rows
        finally:
            tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < 500
    assert held / sizes[1] < 50
