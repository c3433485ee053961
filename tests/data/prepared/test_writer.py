"""The writer: what it refuses, reports and clears away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts
from tests.fixtures.shards import LENGTH, SIDE, make_sample, prepare

from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import write_shard
from avsl.errors import DataError


def test_rejected_sources_are_reported_and_an_empty_shard_is_left_out(tmp_path: Path) -> None:
    """Rejections are reported again when nothing is left to make."""
    for _ in range(2):
        assert prepare(tmp_path) == [("clip", "no sound")]
    assert [shard.file for shard in PreparedData.open(tmp_path).manifest.shards] == [
        "shard-00000.arrow",
        "shard-00002.arrow",
    ]


def test_files_of_an_earlier_larger_set_are_removed(tmp_path: Path) -> None:
    """Stale shards and temporary files do not survive a preparation."""
    (tmp_path / "shard-00007.arrow").write_bytes(b"old")
    (tmp_path / ".shard-00001.arrow.99.part").write_bytes(b"half")
    prepare(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "shard-00007.arrow" not in names
    assert not [name for name in names if name.endswith(".part")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"part": "tset"}, "'tset' train"),
        ({"frame": np.zeros((SIDE, SIDE, 3), np.float32)}, "frame float32"),
        ({"frame": np.zeros((SIDE, SIDE + 1, 3), np.uint8)}, "frame uint8"),
        ({"waveform": np.zeros(LENGTH - 1, np.int16)}, "waveform int16"),
        ({"mask": np.zeros((SIDE, SIDE), np.uint8)}, "mask uint8"),
        ({"boxes": np.zeros(4, np.float32)}, "boxes (4,)"),
        ({"boxes": np.array([[0.1, 0.1, np.nan, 0.5]], np.float32)}, "x0 < x1"),
        ({"boxes": np.array([[0.1, 0.1, 1.1, 0.5]], np.float32)}, "x0 < x1"),
        ({"boxes": np.array([[0.5, 0.1, 0.5, 0.5]], np.float32)}, "x0 < x1"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    """A sample of another type, shape or range is refused by name, and no file is left."""
    with pytest.raises(DataError, match=facts("'s1'", named)):
        write_shard(tmp_path / "shard.arrow", [make_sample(0), replace(make_sample(1), **change)])  # type: ignore[arg-type]  # one field of any type per case
    assert not list(tmp_path.iterdir())
