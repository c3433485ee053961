"""VGGSound: the official list of clips as the unlabeled pool of VGG-SS's boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.messages import facts

from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

Prepare = Callable[..., PreparedData]
VIDEOS = {v: v * 11 for v in "abcd"}


@pytest.fixture
def folder(tmp_path: Path, add_clip: Callable[[Path, int, float], None]) -> Path:
    """A boxed test clip, two training clips, and a test clip without boxes."""
    root = tmp_path / "vggsound"
    for k, video in enumerate(VIDEOS.values()):
        add_clip(root / f"{video}_000030.mp4", 50 * k, 300)
    row = {"file": f"{VIDEOS['a']}_000030", "class": "dog", "bbox": [[0, 0, 1, 1]]}
    (root / "vggss.json").write_text(json.dumps([row]))
    lines = [f"{VIDEOS['a']},30,dog,test", f'{VIDEOS["b"]},30,"cat, meowing",train', f"{VIDEOS['c']},30,bell,train"]
    (root / "vggsound.csv").write_text("\n".join([*lines, f"{VIDEOS['d']},30,dog,test"]))
    return root


def test_training_clips_are_unlabeled_rows_with_their_class(folder: Path, prepare: Prepare) -> None:
    """Boxed clips are cut; the train clips of the list join them; the other test clips do not."""
    data = prepare("vggsound", folder, test_share=1.0)
    assert data.sample_ids == [f"{VIDEOS[v]}_000030" for v in "abc"]
    assert data.parts.tolist() == ["test", "train", "train"]
    assert data.labels.tolist() == ["dog", "cat, meowing", "bell"]
    assert data.annotated.tolist() == [True, False, False]
    alone = prepare("vggsound", folder, annotations="")
    assert alone.manifest.counts == {"train": 2}


def test_a_training_clip_of_a_held_out_video_is_a_leak(folder: Path, prepare: Prepare) -> None:
    """The other clips of a test video must not be learned from."""
    with (folder / "vggsound.csv").open("a") as file:
        file.write(f"\n{VIDEOS['a']},70,dog,train")
    with pytest.raises(DataError, match=facts("vggsound.csv 1 3 source data.vggsound.leak=drop")):
        prepare("vggsound", folder, test_share=1.0)
    assert len(prepare("vggsound", folder, test_share=1.0, leak="drop")) == 3


def test_clips_that_are_not_there_are_counted(folder: Path, prepare: Prepare) -> None:
    """The manifest says n of N for the training part as well."""
    (folder / f"{VIDEOS['c']}_000030.mp4").unlink()
    manifest = prepare("vggsound", folder, test_share=1.0, max_broken=0.5).manifest
    assert (manifest.counts["train"], manifest.expected["train"]) == (1, 2)


@pytest.mark.parametrize("line", ["id,thirty,dog,train", "id,30,dog,validation", "id,30,dog"])
def test_a_wrong_list_is_named(folder: Path, prepare: Prepare, line: str) -> None:
    """One sentence with the row."""
    (folder / "vggsound.csv").write_text(f"{VIDEOS['b']},30,cat,train\n{line}\n")
    with pytest.raises(DataError, match=r"vggsound\.csv: row 2 "):
        prepare("vggsound", folder)
