"""MUSIC-Solo and MUSIC-Duet: boxes by corner and size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.data.index import Index
from avsl.data.prepared.preparation import clean_boxes
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

Prepare = Callable[..., PreparedData]
VIDEO = "HnUOaSfTA6c"


@pytest.fixture
def folder(tmp_path: Path, add_picture: Callable[[Path, int], None], add_sound: Callable[..., None]) -> Path:
    """Two frames of one recording, annotated as a solo and as a duet."""
    names = [f"{VIDEO}_000_00000", f"{VIDEO}_001_00037"]
    for name in names:
        add_picture(tmp_path / "music" / "frames" / f"{name}.jpg", 90)
    add_sound(tmp_path / "music" / "audio" / f"{VIDEO}.wav", 440, seconds=3)
    solo = [{"file": name, "class": "cello", "bbox": [0.5, 0.25, 0.25, 0.5]} for name in names]
    keys = {"class_src1": "cello", "bbox_src1": [0, 0, 0.25, 1], "class_src2": "flute", "bbox_src2": [0.5, 0, 0.25, 1]}
    (tmp_path / "music" / "music_solo.json").write_text(json.dumps(solo))
    (tmp_path / "music" / "music_duet.json").write_text(json.dumps([{"file": names[0]} | keys]))
    return tmp_path / "music"


def test_solo(folder: Path, prepare: Prepare, tones: Callable[[PreparedData, int], set[int]]) -> None:
    """Width and height are no corner; frames of one recording hear it and share its side."""
    data = prepare("music", folder)
    assert data.parts.tolist() == ["test", "test"]
    assert set(data.source_ids) == {VIDEO}
    np.testing.assert_array_equal(data.boxes(0), np.array([[0.5, 0.25, 0.75, 0.75]], np.float32))
    assert tones(data, 1) == {440}
    assert not data.mixed(np.arange(2)).any()


def test_duet(folder: Path, prepare: Prepare) -> None:
    """Both players' boxes on one row."""
    data = prepare("music", folder, subset="duet")
    assert data.parts.tolist() == ["test"]
    assert data.mixed(np.array([0])).all()
    assert data.labels.tolist() == ["cello+flute"]
    np.testing.assert_array_equal(data.boxes(0), np.array([[0, 0, 0.25, 1], [0.5, 0, 0.75, 1]], np.float32))


def test_wrong_annotations_are_named(folder: Path, prepare: Prepare) -> None:
    """A duet's file is no solo's."""
    with pytest.raises(DataError, match=facts("music_duet.json 0 'class'")):
        prepare("music", folder, annotations="music_duet.json")


@pytest.mark.parametrize(("subset", "rows", "videos", "each"), [("solo", 2124, 20, 1), ("duet", 1020, 6, 2)])
def test_published_boxes(
    published_root: Path, read_index: Callable[..., Index], subset: str, rows: int, videos: int, each: int
) -> None:
    """No box is lost; read as corners, 1,648 solo boxes would be."""
    entries = list(read_index("music", published_root, subset=subset).entries)
    boxes = [entry.boxes for entry in entries if entry.boxes is not None]
    assert (len(entries), len(boxes), len({entry.source_id for entry in entries})) == (rows, rows, videos)
    assert {len(clean_boxes(one, 224)) for one in boxes} == {each}
    whole = np.concatenate(boxes)
    assert ((whole >= 0) & (whole <= 1)).all()
    if subset == "solo":
        as_corners = np.concatenate([whole[:, :2], whole[:, 2:] - whole[:, :2]], axis=1)
        assert rows - len(clean_boxes(as_corners, 224)) == 1648
