"""AVSBench (Zhou et al., ECCV 2022, arXiv 2207.05042): five frames of five-second videos, with pixel masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avsl.data.annotation_files import read_pixel_boxes
from avsl.data.index import Entry, Index, IndexedConfig, Leak, LeakRule
from avsl.data.partition import add_training_list
from avsl.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PARTS = {"train": "train", "val": "validation", "test": "test"}
_FRAMES = ("1", "2", "3", "4", "5")


class AVSBenchConfig(IndexedConfig):
    """A folder with ``visual_frames/``, ``gt_masks/`` and ``audio_wav/`` of one of the two subsets.

    Frame k (1 to 5) shows second k; its sound is centered there. The train videos of S4 have a mask for their first
    frame alone, their other frames are unlabeled rows.

    Attributes:
        subset: ``s4`` (one source: ``<split>/<class>/<video>/<video>_<k>.png``) or ``ms3`` (several: frames
            ``<video>/<video>.mp4_<k>.png``, masks ``<split>/<video>/<video>_<k>.png``).
        boxes: JSON file with boxes of the test frames (``s4_box.json``, ``ms3_box.json``); it defines the test part and
            its truth. Empty: the masks do. A box of zeros marks a frame without a sounding object.
        leak: what to do where ``train`` shares a recording with ``val`` or ``test``, or ``val`` with ``test``; in MS3
            several videos are pieces of one recording. ``stop`` is an error, ``drop`` removes the videos from the
            former part.
    """

    subset: Literal["s4", "ms3"] = "s4"
    boxes: str = ""
    leak: LeakRule = "stop"


def read_index(config: AVSBenchConfig) -> Index:
    """List five frames of each video that has a folder of masks or is in the list of boxes.

    Raises:
        DataError: there is neither ``gt_masks/`` nor a list of boxes, the list is wrong, or the parts leak.
    """
    root = Path(config.root)
    masks = root / "gt_masks"
    if not masks.is_dir() and not config.boxes:
        raise DataError(f"{masks}: no such folder")
    entries = []
    for split in sorted(_PARTS):
        if config.boxes and split == "test":
            continue
        folders = sorted(masks.glob(f"{split}/*/*" if config.subset == "s4" else f"{split}/*"))
        entries += [
            _entry(config, split, folder.parent.name if config.subset == "s4" else "", folder.name, k, None)
            for folder in folders
            if folder.is_dir()
            for k in _FRAMES
        ]
    if config.boxes:
        path = root / config.boxes
        for image, audio, boxes in read_pixel_boxes(path):
            _, *category, sound = Path(audio).parts
            k = Path(image).stem.rpartition("_")[2]
            if k not in _FRAMES or len(category) != (config.subset == "s4"):
                raise DataError(f"{path}: '{image}' with '{audio}' is not a frame of {config.subset}")
            entries.append(_entry(config, "test", "".join(category), Path(sound).stem, k, boxes))
    index = Index([entry for entry in entries if entry.part == "test"])
    leaks: list[Leak] = []
    for split in ("val", "train"):
        rows = [entry for entry in entries if entry.part == _PARTS[split]]
        index = add_training_list(list(index.entries), rows, config.leak, masks / split, "data.avsbench.leak")
        leaks += index.leaks
    return Index(index.entries, leaks)


def _entry(
    config: AVSBenchConfig, split: str, category: str, video: str, k: str, boxes: NDArray[np.float64] | None
) -> Entry:
    root, place = Path(config.root), Path(split, category)
    if config.subset == "s4":
        picture = root / "visual_frames" / place / video / f"{video}_{k}.png"
    else:
        picture = root / "visual_frames" / video / f"{video}.mp4_{k}.png"
    mask = root / "gt_masks" / place / video / f"{video}_{k}.png"
    unlabeled = split == "train" and config.subset == "s4" and k != "1"
    return Entry(
        sample_id=f"{video}_{k}",
        # MS3 numbers the pieces of one recording.
        source_id=video if config.subset == "s4" else re.sub(r"_\d+$", "", video),
        group_id=f"{video}_{k}",
        part=_PARTS[split],
        label=category,
        picture=picture,
        sounds=(root / "audio_wav" / place / f"{video}.wav",),
        boxes=boxes,
        # Test frames with boxes need no mask.
        mask=None if unlabeled or (boxes is not None and not mask.is_file()) else mask,
        time_s=int(k) - 0.5,
    )
