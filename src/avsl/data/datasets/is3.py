"""IS3 (Senocak et al., TPAMI 2024, arXiv 2407.13676): synthetic images with two sounding objects, each heard alone."""

from __future__ import annotations

from pathlib import Path

from avsl.data.annotation_files import read_pixel_boxes
from avsl.data.index import CutConfig, Entry, Index
from avsl.data.partition import assign_parts


class IS3Config(CutConfig):
    """A folder with ``visual_frames/`` and ``audio_wav/``; rows of one image are a group.

    Attributes:
        annotations: JSON file in the folder with two entries for each image, one for each sound.
    """

    annotations: str = "synthetic3240_bbox.json"


def read_index(config: IS3Config) -> Index:
    """List two rows for each image.

    Raises:
        DataError: the annotation file is missing or wrong.
    """
    root = Path(config.root)
    entries = []
    for image, audio, boxes in read_pixel_boxes(root / config.annotations):
        # <first>_<second>_<number, in most>_<the one that sounds>
        scene, _, label = Path(image).stem.rpartition("_")
        entries.append(
            Entry(
                sample_id=Path(image).stem,
                source_id=scene,
                group_id=scene,
                label=label,
                picture=root / "visual_frames" / image,
                sounds=(root / "audio_wav" / audio,),
                boxes=boxes,
            )
        )
    return Index(assign_parts(entries, config))
