"""Any folder: videos, or frames and sounds, with or without boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

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
    with pytest.raises(DataError, match=f"{tmp_path}: holds neither clips"):
        prepare("folder", tmp_path)
    with pytest.raises(DataError, match="/no/such/folder: no such folder"):
        prepare("folder", Path("/no/such/folder"))


@pytest.mark.slow
@pytest.mark.parametrize("annotations", ["", "boxes.json"])
def test_real_clips(real_clips: Path, prepare: Prepare, annotations: str) -> None:
    """Four real videos, with their boxes or without."""
    data = prepare("folder", real_clips, annotations=annotations, duration_s=1.0)
    assert sorted(data.sample_ids) == sorted(path.stem for path in real_clips.glob("*.mp4"))
    assert data.annotated.tolist() == [bool(annotations)] * 4
    assert data.waveforms(np.arange(4)).std(axis=1).min() > 1e-3
