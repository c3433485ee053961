"""AVSBench: five frames a video, pixel masks, and the boxes made from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.fixtures.messages import facts

from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

Prepare = Callable[..., PreparedData]
Tones = Callable[[PreparedData, int], set[int]]


def add_video(root: Path, place: str, video: str, *, ms3: bool, masked: range = range(1, 6)) -> None:
    """Five frames and five seconds, second k with a tone of 200 k Hz; masks cover the left k sixths."""
    frames = root / "visual_frames" / ("" if ms3 else place) / video
    masks = root / "gt_masks" / place / video
    sound = root / "audio_wav" / place / f"{video}.wav"
    for folder in (frames, masks, sound.parent):
        folder.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(5 * 16000) / 16000
    soundfile.write(sound, 0.5 * np.sin(2 * np.pi * 200 * (1 + seconds.astype(int)) * seconds), 16000)
    for k in range(1, 6):
        name = f"{video}.mp4_{k}.png" if ms3 else f"{video}_{k}.png"
        Image.fromarray(np.full((24, 24, 3), 40 * k, np.uint8)).save(frames / name)
        if k in masked:
            pixels = np.zeros((24, 24), np.uint8)
            pixels[:, : 4 * k] = 3 if ms3 else 255
            picture = Image.fromarray(pixels)
            if ms3:
                picture.putpalette([0, 0, 0, 9, 9, 9, 99, 0, 0, 0, 0, 250])
            picture.save(masks / f"{video}_{k}.png")


def test_s4(tmp_path: Path, prepare: Prepare, tones: Tones) -> None:
    """Parts are the official ones; a training video has one mask; each frame hears its own second."""
    add_video(tmp_path / "s4", "train/dog", "one", ms3=False, masked=range(1, 2))
    for split in ("val", "test"):
        add_video(tmp_path / "s4", f"{split}/dog", f"{split}_video", ms3=False)
    data = prepare("avsbench", tmp_path / "s4", image_size=24)
    assert data.manifest.counts == {"train": 5, "validation": 5, "test": 5}
    train = data.indices("train")
    assert data.annotated[train].tolist() == [True] + [False] * 4
    assert set(data.labels) == {"dog"}
    for k, row in enumerate(data.indices("test").tolist(), start=1):
        assert data.sample_ids[row] == f"test_video_{k}"
        assert data.frames(np.array([row])).max() == 40 * k
        assert tones(data, row) == {200 * k}
        expected = np.zeros((24, 24), bool)
        expected[:, : 4 * k] = True
        np.testing.assert_array_equal(data.object_masks(np.array([row]))[0], expected)
        np.testing.assert_array_equal(data.truth_masks(np.array([row]))[0], expected)
        np.testing.assert_array_equal(data.boxes(row), np.array([[0, 0, 4 * k / 24, 1]], np.float32))


def test_ms3_with_the_list_of_boxes(tmp_path: Path, prepare: Prepare) -> None:
    """The list is the test part, whether its frames are there or not; zeros say that nothing sounds."""
    root = tmp_path / "ms3"
    add_video(root, "train", "one", ms3=True)
    add_video(root, "test", "two_1", ms3=True)
    for k in (2, 3):
        (root / "gt_masks" / "test" / "two_1" / f"two_1_{k}.png").unlink()
    rows = [
        {
            "image": f"/x/visual_frames/two_1/two_1.mp4_{k}.png",
            "audio": "/x/audio_wav/test/two_1.wav",
            "gt_box": [0.0, 0.0, 0.0, 0.0] if k == 2 else [0, 112, 56, 224],
        }
        for k in (1, 2, 3)
    ]
    gone = {key: value.replace("two", "gone") if isinstance(value, str) else value for key, value in rows[0].items()}
    (root / "boxes.json").write_text(json.dumps([*rows, gone]))
    data = prepare("avsbench", root, subset="ms3", boxes="boxes.json", image_size=24, max_broken=0.2)
    assert (data.manifest.counts, data.manifest.expected) == ({"train": 5, "test": 3}, {"train": 5, "test": 4})
    first, second, third = data.indices("test").tolist()
    np.testing.assert_array_equal(data.boxes(first), np.array([[0, 0.5, 0.25, 1]], np.float32))
    assert data.object_masks(np.array([first])).sum() == 24 * 4
    # The published list is of boxes, so these are scored.
    np.testing.assert_array_equal(
        data.truth_masks(np.array([first, second])), data.box_masks(np.array([first, second]))
    )
    assert data.truth_masks(np.array([first])).sum() == 12 * 6
    assert (data.exact == (data.parts == "train")).all()
    assert data.boxes(second).shape == (0, 4)  # type: ignore[union-attr]  # annotated
    np.testing.assert_array_equal(data.boxes(third), data.boxes(first))


def test_pieces_of_one_recording_lie_on_one_side(tmp_path: Path, prepare: Prepare) -> None:
    """MS3's videos are numbered pieces: those of a test recording are dropped where told to, else nothing goes on."""
    for place, video in (("train", "a_b_1"), ("train", "c_1"), ("val", "d_2"), ("test", "a_b_2"), ("test", "d_10")):
        add_video(tmp_path / "ms3", place, video, ms3=True)
    with pytest.raises(DataError, match=facts("val 5 source data.avsbench.leak=drop")):
        prepare("avsbench", tmp_path / "ms3", subset="ms3", image_size=24)
    data = prepare("avsbench", tmp_path / "ms3", subset="ms3", image_size=24, leak="drop")
    assert data.manifest.counts == {"train": 5, "test": 10}
    assert set(data.source_ids) == {"a_b", "c", "d"}
    assert data.manifest.settings["leaks_dropped"] == 10


def test_wrong_input_is_named(tmp_path: Path, prepare: Prepare) -> None:
    """No masks, or a list of the other subset."""
    with pytest.raises(DataError, match=facts("gt_masks")):
        prepare("avsbench", tmp_path)
    row = {"image": "/x/visual_frames/a/a.mp4_1.png", "audio": "/x/audio_wav/test/a.wav", "gt_box": [0, 0, 9, 9]}
    (tmp_path / "b.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=facts("b.json 'a/a.mp4_1.png' 'test/a.wav' s4")):
        prepare("avsbench", tmp_path, boxes="b.json")
    (tmp_path / "b.json").write_text(json.dumps([row | {"image": "/x/visual_frames/a/a.mp4_6.png"}]))
    with pytest.raises(DataError, match=facts("b.json a.mp4_6.png ms3")):
        prepare("avsbench", tmp_path, subset="ms3", boxes="b.json")
    (tmp_path / "b.json").write_text(json.dumps([row | {"image": "/x/visual_frames/a/a.mp4_².png"}]))
    with pytest.raises(DataError, match=facts("b.json a.mp4_².png ms3")):
        prepare("avsbench", tmp_path, subset="ms3", boxes="b.json")


@pytest.mark.parametrize(
    ("subset", "frames", "videos", "recordings", "silent"), [("s4", 3700, 740, 740, 6), ("ms3", 320, 64, 54, 29)]
)
def test_published_boxes(
    published_root: Path,
    read_index: Callable[..., Index],
    subset: str,
    frames: int,
    videos: int,
    recordings: int,
    silent: int,
) -> None:
    """Five frames of every test video; in some of them nothing sounds."""
    index = read_index("avsbench", published_root, subset=subset, boxes=f"{subset}_box.json")
    assert Counter(entry.part for entry in index.entries) == {"test": frames}
    assert set(Counter(entry.sample_id.rpartition("_")[0] for entry in index.entries).values()) == {5}
    assert len({entry.sample_id.rpartition("_")[0] for entry in index.entries}) == videos
    assert len({entry.source_id for entry in index.entries}) == recordings
    assert sum(entry.boxes is not None and not len(entry.boxes) for entry in index.entries) == silent
