"""Parts by source, and what a training list may not hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.fixtures.messages import facts

from avsl.data.index import CutConfig, Entry, Leak
from avsl.data.partition import add_pool, add_training_list, assign_parts
from avsl.data.recordings import source_of
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
    with pytest.raises(DataError, match=facts("list.txt 3 5 data.x.leak=drop")):
        add_training_list(entries, pool, "stop", Path("list.txt"), "data.x.leak")
    silent = Entry("a+b", "a", "a", part="test_offscreen", sound_source="b")
    (leak,) = add_training_list([silent], rows("b", "c", part="train"), "drop", Path("list.txt"), "data.x.leak").leaks
    assert leak == Leak("b", "test_offscreen", False), "its sound is held out as its frame is"
    quiet = add_pool(entries, pool)
    assert [entry.sample_id for entry in [*quiet.entries][3:]] == ["new"]
    assert (quiet.left_out, list(quiet.leaks)) == (3, [])
