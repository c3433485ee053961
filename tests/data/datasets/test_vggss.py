"""VGG-SS: its lists, its open and extended sets, its leaks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.messages import facts, says

from avsl.data.annotation_files import read_annotations
from avsl.data.index import Index
from avsl.data.prepared.preparation import clean_boxes
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import SplitConfig, make_split
from avsl.errors import DataError
from avsl.schema import ConfigError

Prepare = Callable[..., PreparedData]
ReadIndex = Callable[..., Index]
OPEN_SET = {"heard_list": "vggss_heard_test.csv", "unheard_list": "vggss_unheard_test.csv"}


@pytest.fixture
def folder(tmp_path: Path, add_row: Callable[[Path, str, int], None]) -> Path:
    """Six annotated clips of three videos, and one video without boxes."""
    root = tmp_path / "source"
    rows = []
    for k, (video, start) in enumerate((v, s) for v in "abcd" for s in (10, 40)):
        name = f"{video * 11}_{start:06d}"
        add_row(root, name, k)
        if video != "d":
            rows.append({"file": name, "class": f"c{video}", "bbox": [[0.25, 0.5, 0.75, 1.0]]})
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "test.csv").write_text("a" * 11 + "_000010\n")
    return root


def test_the_videos_of_listed_clips_are_for_testing_and_the_rest_is_unlabeled(folder: Path, prepare: Prepare) -> None:
    """A test clip takes its video's other clips along; a held-out video gives no training row."""
    rows = json.loads((folder / "vggss.json").read_text())
    (folder / "vggss.json").write_text(json.dumps(rows[:1] + rows[2:]))
    data = prepare("vggss", folder, test_list="test.csv", validation_share=0.0)
    parts = dict(zip(data.sample_ids, data.parts, strict=True))
    assert parts == {
        "a" * 11 + "_000010": "test",
        **{f"{v * 11}_{s}": "train" for v in "bcd" for s in ("000010", "000040")},
    }
    assert [name for i, name in enumerate(data.sample_ids) if data.boxes(i) is None] == [
        "d" * 11 + "_000010",
        "d" * 11 + "_000040",
    ]


def test_listed_ids_without_boxes_are_not_passed_over(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: Callable[[Path], list[Mapping[str, Any]]]
) -> None:
    """A test id that nobody annotated is one of N, in quarantine."""
    (folder / "test.csv").write_text("a" * 11 + "_000010\nmissing\n")
    data = prepare("vggss", folder, test_list="test.csv", max_broken=0.5)
    assert (data.manifest.counts["test"], data.manifest.expected["test"]) == (2, 3)
    (row,) = read_csv(tmp_path / "out" / "quarantine.csv")
    assert row["sample_id"] == "missing"
    assert says(row["reason"], "test.csv vggss.json")


def test_silent_rows_pair_a_test_frame_with_another_sound(
    folder: Path, prepare: Prepare, tones: Callable[[PreparedData, int], set[int]]
) -> None:
    """They have no box; the frame's own side is kept, and the split accepts them."""
    a, b, d = ("".join((v * 11, "_000010")) for v in "abd")
    (folder / "silent.csv").write_text(f"video,audio,label\n{a},{d},non-sounding\n{b},{d},non-sounding\n{a},{a},c\n")
    data = prepare("vggss", folder, test_list="test.csv", silent_list="silent.csv", validation_share=0.0)
    (row,) = data.indices("test_offscreen").tolist()
    assert data.sample_ids[row] == f"{a}+{d}"
    assert data.boxes(row).shape == (0, 4)  # type: ignore[union-attr]  # annotated
    assert data.frames(np.array([row]))[0, 0, 0, 0] == 0
    assert tones(data, row) == {200 + 50 * 6}
    tests = make_split(data, SplitConfig(label_ratio=0.5)).tests
    assert {part: len(ids) for part, ids in tests.items()} == {"test": 2, "test_offscreen": 1}


def test_leaks_of_a_training_list_stop_or_are_recorded(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: Callable[[Path], list[Mapping[str, Any]]]
) -> None:
    """Dropped rows are in leaks.csv and counted in the manifest."""
    names = ["a" * 11 + "_000010", "a" * 11 + "_000070", "d" * 11 + "_000010"]
    (folder / "list.txt").write_text("\n".join(names))
    settings = {"test_list": "test.csv", "train_list": "list.txt", "validation_share": 0.0}
    with pytest.raises(
        DataError,
        match=facts("list.txt 2 3 'test' source data.vggss.leak=drop"),
    ):
        prepare("vggss", folder, **settings)
    data = prepare("vggss", folder, leak="drop", **settings)
    assert data.sample_ids[-1] == names[2]
    assert data.manifest.counts == {"train": 5, "test": 2}
    assert data.manifest.settings["leaks_dropped"] == 2
    assert read_csv(tmp_path / "out" / "leaks.csv") == [
        {"sample_id": names[0], "part": "test", "shares": "row"},
        {"sample_id": names[1], "part": "test", "shares": "source"},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": "none.json"}, "none.json"),
        ({"test_list": "none.csv"}, "none.csv"),
        ({"annotations": "test.csv"}, "test.csv 1 2"),
        ({"test_list": "vggss.json"}, "vggss.json 1"),
        ({"silent_list": "test.csv"}, "test.csv 1 3"),
    ],
)
def test_missing_inputs_are_one_sentence(folder: Path, prepare: Prepare, change: dict[str, str], message: str) -> None:
    """A missing folder or file is named."""
    with pytest.raises(DataError, match=facts(message)):
        prepare("vggss", folder, **change)


def test_wrong_settings_are_named(folder: Path, prepare: Prepare) -> None:
    """Out of range, unknown, or no rule."""
    with pytest.raises(ConfigError, match=r"data\.vggss\.validation_share"):
        prepare("vggss", folder, validation_share=1.5)
    with pytest.raises(ConfigError, match=facts("data.vggss.frame")):
        prepare("vggss", folder, frame="x")
    with pytest.raises(ConfigError, match=r"'data\.vggss\.leak' = 'keep'"):
        prepare("vggss", folder, leak="keep")


def test_published_annotations(published: Path) -> None:
    """The published file holds the known numbers of clips, classes and degenerate boxes."""
    annotated = read_annotations(published / "vggss.json")
    assert len(annotated) == 5158
    assert len({row.label for row in annotated.values()}) == 221
    cleaned = {name: clean_boxes(row.boxes, 224) for name, row in annotated.items()}
    assert sum((row.boxes < -1e16).any(axis=1).sum() for row in annotated.values()) == 12
    assert sum(len(row.boxes) - len(cleaned[name]) for name, row in annotated.items()) == 18
    assert sum(not len(boxes) for boxes in cleaned.values()) == 2
    kept = np.concatenate(list(cleaned.values()))
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (kept[:, :2] < kept[:, 2:]).all()


@pytest.mark.parametrize(
    ("name", "rows", "same", "further"),
    [("vggss_144k.txt", 144000, 3709, 101), ("vggss_10k.txt", 10000, 238, 2), ("vggss_heard.txt", 59468, 0, 1)],
)
def test_published_training_lists_leak(
    published_root: Path, read_index: ReadIndex, name: str, rows: int, same: int, further: int
) -> None:
    """How many clips of each list are test clips, and how many more are of their videos."""
    settings = {"train_list": name, "test_share": 1.0}
    with pytest.raises(DataError, match=facts(name, same + further, rows, same or "", further, "'test'")):
        read_index("vggss", published_root, **settings)


def test_leaks_of_a_published_training_list_are_dropped(published_root: Path, read_index: ReadIndex) -> None:
    """What remains shares no video with the test clips."""
    index = read_index("vggss", published_root, train_list="vggss_10k.txt", test_share=1.0, leak="drop")
    assert Counter((leak.part, leak.same) for leak in index.leaks) == {("test", True): 238, ("test", False): 2}
    assert Counter(entry.part for entry in index.entries) == {"test": 5158, "train": 9760}
    sources = [{entry.source_id for entry in index.entries if entry.part == part} for part in ("test", "train")]
    assert not sources[0] & sources[1]


def test_published_open_set(published_root: Path, read_index: ReadIndex) -> None:
    """110 heard classes are cut, 110 unheard ones are for testing alone; their training list leaks one video."""
    index = read_index("vggss", published_root, train_list="vggss_heard.txt", leak="drop", **OPEN_SET)
    parts: dict[str, list[Any]] = {}
    for entry in index.entries:
        if entry.annotated:
            parts.setdefault(entry.part, []).append(entry)
    assert len(parts.pop("test_unheard")) == 2575
    assert sum(map(len, parts.values())) == 2564
    assert parts.keys() == {"train", "validation", "test"}
    unheard = {entry.label for entry in index.entries if entry.part == "test_unheard"}
    heard = {entry.label for entries in parts.values() for entry in entries}
    assert (len(heard), len(unheard), len(heard & unheard)) == (110, 110, 0)


def test_published_extended_set(published_root: Path, read_index: ReadIndex) -> None:
    """As many silent pairs as clips; where labels come from the clips, their own pairs are left out."""
    settings = {"silent_list": "vggss_test_plus_silent.csv"}
    whole = read_index("vggss", published_root, test_share=1.0, **settings)
    assert Counter(entry.part for entry in whole.entries) == {"test": 5158, "test_offscreen": 5158}
    assert whole.left_out == 0
    cut = read_index("vggss", published_root, **settings)
    silent = [entry for entry in cut.entries if entry.part == "test_offscreen"]
    assert len(silent) + cut.left_out == 5158
    learned = {entry.source_id for entry in cut.entries if entry.part in ("train", "validation")}
    assert not learned & {entry.source_id for entry in silent}


@pytest.mark.slow
def test_real_clips_are_decoded(real_clips: Path, prepare: Prepare) -> None:
    """Real videos become rows with content in frame, sound and boxes."""
    data = prepare("vggss", real_clips, annotations="boxes.json", image_size=64, duration_s=1.0)
    assert len(data) == 4
    everything = np.arange(4)
    assert data.frames(everything).std(axis=(1, 2, 3)).min() > 20
    assert data.waveforms(everything).std(axis=1).min() > 1e-3
    assert data.box_masks(everything).any(axis=(1, 2)).all()
