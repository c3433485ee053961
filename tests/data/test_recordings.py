"""Recordings by the names of samples."""

from __future__ import annotations

import pytest
from tests.fixtures.messages import facts, says

from avsl.data.recordings import Recordings, count_recordings, source_of
from avsl.errors import DataError

CONCERTS = [f"concert{v}_{k:04d}" for v in range(3) for k in range(2)]
# One numbered series, classes, days and times of day, a span of hours: nothing says that they belong together.
UNRELATED = (
    ["clip_0001", "clip_0002", "other"],
    ["dog/clip_001", "dog/clip_002", "cat/clip_001"],
    ["horn_001", "horn_002", "drum_001"],
    ["VID_20240101_120000", "VID_20240101_130000", "IMG_20240102_120000"],
    ["x_1_99000000"],
    ["a1", "b_2"],
)


@pytest.mark.parametrize(
    ("names", "recordings"),
    [
        (["hpDY7u8B8hE_000030", "hpDY7u8B8hE_000060"], ["hpDY7u8B8hE"] * 2),
        (["hpDY7u8B8hE_5000_15000", "hpDY7u8B8hE_20000_30000"], ["hpDY7u8B8hE"] * 2),
        (["a_b_0.5_10.5", "a_b_12_22"], ["a_b"] * 2),
        (CONCERTS, [name[:8] for name in CONCERTS]),
        (["dog/a-001", "dog/b-001", "dog/a-002"], ["dog/a", "dog/b", "dog/a"]),
        *((names, names) for names in UNRELATED),
    ],
)
def test_usual_names(names: list[str], recordings: list[str]) -> None:
    """The three forms are recognized, and what only looks like one is not."""
    find = Recordings(names, classes={"horn", "drum"})
    assert [find(name) for name in names] == recordings


def test_a_pattern_decides_alone() -> None:
    """What it does not match is its own recording."""
    names = ["mon-1", "mon-2", "hpDY7u8B8hE_000030"]
    find = Recordings(names, r"(.+)-\d")
    assert [find(name) for name in names] == ["mon", "mon", "hpDY7u8B8hE_000030"]
    with pytest.raises(DataError, match=facts("recording_pattern (x)y")):
        Recordings(["a", "b"], "(x)y")


def test_what_was_recognized_is_reported() -> None:
    """Clips, recordings and the form."""
    find = Recordings([*CONCERTS, "alone"])
    said = count_recordings(map(find.match, [*CONCERTS, "alone"]))
    assert says(said, "7 4 recordings")
    assert "6 by NAME_NNNN" in said
    assert "each its own" in count_recordings(map(find.match, ["x", "y"]))


def test_the_source_of_a_published_clip() -> None:
    """A VGGSound clip belongs to its video, any other id to itself."""
    assert [source_of(name) for name in ("hpDY7u8B8hE_000030", "scene_00001")] == ["hpDY7u8B8hE", "scene_00001"]
