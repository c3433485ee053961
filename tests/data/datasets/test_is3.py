"""IS3: one image, two sounds, two boxes."""

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


def test_rows_of_one_image_are_a_group(
    tmp_path: Path,
    prepare: Callable[..., PreparedData],
    add_picture: Callable[[Path, int], None],
    add_sound: Callable[..., None],
    tones: Callable[[PreparedData, int], set[int]],
) -> None:
    """Each row has its own sound and box; a listed image that is not there is one of N."""
    rows = []
    for k, name in enumerate(("cat_bell_7_cat", "cat_bell_7_bell", "dog_bell_8_dog")):
        image = {"image": f"/x/visual_frames/{name}.jpg", "audio": f"/x/audio_wav/{name}.wav"}
        rows.append(image | {"gt_box": [56 * k, 0, 56 * (k + 1), 224]})
        if not name.startswith("dog"):
            add_picture(tmp_path / "is3" / "visual_frames" / f"{name}.jpg", 100)
            add_sound(tmp_path / "is3" / "audio_wav" / f"{name}.wav", 300 + 400 * k)
    (tmp_path / "is3" / "synthetic3240_bbox.json").write_text(json.dumps(rows))
    data = prepare("is3", tmp_path / "is3", max_broken=0.4)
    assert data.manifest.counts == {"test": 2}
    assert data.manifest.expected == {"test": 3}
    assert data.group_ids.tolist() == ["cat_bell_7"] * 2
    assert data.labels.tolist() == ["cat", "bell"]
    assert [tones(data, row) for row in (0, 1)] == [{300}, {700}]
    np.testing.assert_array_equal(data.boxes(1), np.array([[0.25, 0, 0.5, 1]], np.float32))


def test_a_missing_list_is_named(tmp_path: Path, prepare: Callable[..., PreparedData]) -> None:
    """The annotation file is the data set's list."""
    with pytest.raises(DataError, match=facts("synthetic3240_bbox.json")):
        prepare("is3", tmp_path)


def test_published_boxes(published_root: Path, read_index: Callable[..., Index]) -> None:
    """3,240 images with two annotations each."""
    entries = list(read_index("is3", published_root).entries)
    assert len(entries) == 6480
    groups = Counter(entry.group_id for entry in entries)
    assert (len(groups), set(groups.values())) == (3240, {2})
    assert len({(entry.group_id, entry.label) for entry in entries}) == 6480
    boxes = np.concatenate([entry.boxes for entry in entries if entry.boxes is not None])
    assert boxes.shape == (6480, 4)
    assert ((boxes >= 0) & (boxes <= 1)).all()
