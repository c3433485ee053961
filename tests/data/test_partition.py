"""Parts by source, and what a training list may not hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.messages import facts

from avsl.data.datasets.folder import FolderConfig
from avsl.data.index import CutConfig, Entry, Index, Leak
from avsl.data.partition import add_pool, add_training_list, assign_parts
from avsl.data.prepared.preparation import check_index
from avsl.data.prepared.reader import PreparedData
from avsl.data.recordings import source_of
from avsl.data.splits import SplitConfig, make_split
from avsl.errors import DataError
from avsl.schema import ConfigError


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


Prepare = Callable[..., PreparedData]
RATE = 16000
GRAYS, TONES = (40, 120, 200), (300, 700, 1500)  # in each third of a clip


@pytest.fixture
def add_thirds(
    write_video: Callable[[Path, Sequence[int], NDArray[np.floating[Any]]], None],
) -> Callable[[Path], None]:
    """Writes a video of six seconds whose gray and tone change after two and four."""

    def add(path: Path) -> None:
        times = np.arange(2 * RATE) / RATE
        samples = np.concatenate([0.5 * np.sin(2 * np.pi * hertz * times) for hertz in TONES])
        write_video(path, np.repeat(GRAYS, 20).tolist(), samples)

    return add


@pytest.fixture
def folder(tmp_path: Path, add_thirds: Callable[[Path], None]) -> Path:
    """Four clips, of which two have boxes."""
    root = tmp_path / "videos"
    for name in "abcd":
        add_thirds(root / f"{name}.mp4")
    boxes = [{"file": name, "class": "c", "bbox": [[0, 0, 0.5, 1]]} for name in "ab"]
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


def test_every_frame_is_a_row_with_its_own_picture_and_sound(
    folder: Path, prepare: Prepare, tones: Callable[[PreparedData, int], set[int]]
) -> None:
    """At the midpoints of equal parts; the one in the middle is the row that a single frame gives."""
    data = prepare("folder", folder, frames_per_clip=3)
    assert data.sample_ids == [f"{name}@{k}of3" for name in "abcd" for k in (1, 2, 3)]
    assert data.source_ids.tolist() == [name for name in "abcd" for _ in range(3)]
    assert data.group_ids.tolist() == data.sample_ids  # rows of one group share a frame
    np.testing.assert_allclose(data.frames(np.arange(12)).mean(axis=(1, 2, 3)), GRAYS * 4, atol=6)
    assert [tones(data, row) for row in range(12)] == [{hertz} for hertz in TONES] * 4
    single = prepare("folder", folder, out="single")
    assert single.sample_ids == list("abcd")
    middle, all_ = np.array([1, 4, 7, 10]), np.arange(4)
    np.testing.assert_array_equal(data.frames(middle), single.frames(all_))
    np.testing.assert_array_equal(data.waveforms(middle), single.waveforms(all_))


def test_clips_with_boxes_stay_one_row_and_a_split_keeps_a_clip_together(folder: Path, prepare: Prepare) -> None:
    """Whether they are tested on or learned from; no clip lies on two sides, nor is a labeled one unlabeled too."""
    tested = prepare("folder", folder, frames_per_clip=2, annotations="boxes.json", test_share=1.0)
    unlabeled = ["c@1of2", "c@2of2", "d@1of2", "d@2of2"]
    assert tested.sample_ids == ["a", "b", *unlabeled]
    assert tested.parts.tolist() == ["test"] * 2 + ["train"] * 4
    given = {"annotations": "boxes.json", "test_share": 0.0, "validation_share": 0.0}
    learned = prepare("folder", folder, 2, out="learned", frames_per_clip=2, **given)
    assert learned.sample_ids == ["a", "b", *unlabeled]
    split = make_split(learned, SplitConfig(label_ratio=1 / 6))
    assert len(split.labeled) == 1
    sources = dict(zip(learned.sample_ids, learned.source_ids, strict=True))
    assert not {sources[name] for name in split.labeled} & {sources[name] for name in split.unlabeled}
    assert set(unlabeled) <= set(split.unlabeled)


def test_leaks_are_found_by_video_and_missing_clips_count_as_rows(
    tmp_path: Path, prepare: Prepare, add_clip: Callable[[Path, int, float], None]
) -> None:
    """Neither the held-out clip itself nor another one of its video; n of N is of frames."""
    root = tmp_path / "vggsound"
    videos = {v: v * 11 for v in "abc"}
    names = [f"{videos[v]}_{start:06d}" for v, start in (("a", 30), ("a", 70), ("b", 30))]
    for name in names:
        add_clip(root / f"{name}.mp4", 90, 300)
    (root / "vggss.json").write_text(json.dumps([{"file": names[0], "class": "dog", "bbox": [[0, 0, 1, 1]]}]))
    lines = [f"{video},{start},dog,train" for video in videos.values() for start in (30, 70)]
    (root / "vggsound.csv").write_text("\n".join(lines[:3] + lines[4:5]))
    given = {"frames_per_clip": 2, "test_share": 1.0, "max_broken": 0.5}
    with pytest.raises(DataError, match=facts("vggsound.csv 2 4 'test' source")):
        prepare("vggsound", root, **given)
    data = prepare("vggsound", root, leak="drop", **given)
    assert data.sample_ids == [names[0], f"{names[2]}@1of2", f"{names[2]}@2of2"]
    assert data.manifest.expected == {"train": 4, "test": 1}


def test_a_look_sees_the_frames(folder: Path, read_index: Callable[..., Index]) -> None:
    """`avsl data check` counts what `prepare` would."""
    config = FolderConfig(root=str(folder), image_size=32, duration_s=0.5, frames_per_clip=5)
    (state,) = check_index("folder", read_index("folder", folder), config, 1)
    assert (state.listed, state.missing, state.broken) == (20, 0, 0)


@pytest.mark.parametrize(("value", "said"), [(0, "1"), (17, "16")])
def test_a_number_out_of_range_is_named(folder: Path, prepare: Prepare, value: int, said: str) -> None:
    """With the key and the bound."""
    with pytest.raises(ConfigError, match=facts(f"data.folder.frames_per_clip {value} {said}")):
        prepare("folder", folder, frames_per_clip=value)


def test_where_there_is_no_video_to_take_frames_from_it_is_an_error(
    folder: Path, tmp_path: Path, prepare: Prepare, add_row: Callable[[Path, str, int], None]
) -> None:
    """Pictures, or videos that all have boxes: the setting would do nothing without a word."""
    add_row(tmp_path / "pictures", "s", 1)
    with pytest.raises(DataError, match=facts("frames/s.png frames_per_clip 2")):
        prepare("folder", tmp_path / "pictures", frames_per_clip=2)
    for name in "cd":
        (folder / f"{name}.mp4").unlink()
    with pytest.raises(DataError, match=facts("videos frames_per_clip 2 boxes")):
        prepare("folder", folder, annotations="boxes.json", test_share=1.0, frames_per_clip=2)
