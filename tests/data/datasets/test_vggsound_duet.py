"""VGGSound-Duet: two clips whose sounds are mixed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

Prepare = Callable[..., PreparedData]
Tones = Callable[[PreparedData, int], set[int]]
AddRow = Callable[[Path, str, int], None]


@pytest.fixture
def duets(tmp_path: Path, add_row: AddRow) -> Path:
    """Two clips that are paired."""
    root = tmp_path / "duet"
    for k, name in enumerate(("one", "two"), start=1):
        add_row(root, name, 4 * k)
    rows = [
        {"file": "one", "class": "a", "bbox": [[0, 0, 0.5, 1]]},
        {"file": "two", "class": "b", "bbox": [[0, 0, 1, 1]]},
    ]
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "vggsound_duet_test.csv").write_text("one,a,two,b\n")
    return root


def test_each_frame_of_a_duet_hears_both(duets: Path, prepare: Prepare, tones: Tones) -> None:
    """Two rows with one sound, each with its own frame and boxes."""
    data = prepare("vggsound_duet", duets)
    assert data.sample_ids == ["one+two/0", "one+two/1"]
    assert data.parts.tolist() == ["test"] * 2
    assert data.mixed(np.arange(2)).all()
    assert data.labels.tolist() == ["a", "b"]
    assert data.source_ids.tolist() == data.group_ids.tolist() == ["one", "two"]
    assert [tones(data, row) for row in (0, 1)] == [{400, 600}] * 2
    np.testing.assert_array_equal(data.waveforms(np.array([0])), data.waveforms(np.array([1])))
    np.testing.assert_array_equal(data.frames(np.array([0, 1]))[:, 0, 0, 0], [40, 80])
    assert data.box_masks(np.array([0, 1])).mean(axis=(1, 2)).tolist() == [0.5, 1]


def test_a_share_of_the_clips_is_for_testing(published_root: Path, read_index: Callable[..., Index]) -> None:
    """The others are learned from alone, and no mixture holds one of them; what is left out is counted."""
    index = read_index("vggsound_duet", published_root, test_share=0.5)
    parts = {part: [entry for entry in index.entries if entry.part == part] for part in ("train", "validation", "test")}
    mixed = {name for entry in parts["test"] for name in entry.sample_id.partition("/")[0].split("+")}
    assert len(parts["test"]) + index.left_out == 2 * 5158
    assert len(parts["test"]) / (2 * 5158) == pytest.approx(0.25, abs=0.03)
    learned = parts["train"] + parts["validation"]
    assert mixed.isdisjoint(entry.sample_id for entry in learned)
    assert len(learned) / 5158 == pytest.approx(0.5, abs=0.03)
    assert all(len(entry.sounds) == 1 for entry in learned)


def test_a_pair_without_boxes_is_named(duets: Path, prepare: Prepare) -> None:
    """The row and the clip."""
    (duets / "vggsound_duet_test.csv").write_text("one,a,two,b\none,a,three,c\n")
    with pytest.raises(DataError, match=facts("vggsound_duet_test.csv 2 'three' vggss.json")):
        prepare("vggsound_duet", duets)


def test_published_pairs(published_root: Path, read_index: Callable[..., Index]) -> None:
    """5,158 pairs of VGG-SS clips, all of them boxed."""
    duet = read_index("vggsound_duet", published_root).entries
    assert Counter(entry.part for entry in duet) == {"test": 2 * 5158}
    assert len({entry.sample_id for entry in duet}) == 2 * 5158
    assert all(entry.annotated for entry in duet)
