"""MUSIC-Solo and MUSIC-Duet (Zhao et al., ECCV 2018, arXiv 1804.03160; boxes: Hu et al., NeurIPS 2020, 2010.05466)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from avsl.data.annotation_files import as_boxes, read_json_rows
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media
from avsl.data.partition import assign_parts

_Box = tuple[float, float, float, float]


class MUSICConfig(CutConfig):
    """A folder with ``frames/<video>_<clip>_<frame>.jpg`` and ``audio/<video>.wav``, and one of the two box files.

    The sound of a frame is the middle of its video's recording, as in published code.

    Attributes:
        subset: ``solo`` or ``duet`` (both players sound at once, so the truth is both boxes).
        annotations: JSON file in the folder; empty: ``music_<subset>.json``. Boxes are x, y, width, height as
            fractions; published code reads them as corners, which leaves 1,648 of the 2,124 solo boxes empty.
    """

    subset: Literal["solo", "duet"] = "solo"
    annotations: str = ""


class _Solo(BaseModel):
    file: str
    label: str = Field(alias="class")
    bbox: _Box


class _Duet(BaseModel):
    file: str
    class_src1: str
    bbox_src1: _Box
    class_src2: str
    bbox_src2: _Box


def read_index(config: MUSICConfig) -> Index:
    """List the annotated frames.

    Raises:
        DataError: the folder or the annotation file is missing or wrong.
    """
    root = Path(config.root)
    media = Media.read(root)
    path = root / (config.annotations or f"music_{config.subset}.json")
    if config.subset == "solo":
        rows = [(row.file, [row.label], [row.bbox]) for row in read_json_rows(path, _Solo)]
    else:
        rows = [
            (row.file, [row.class_src1, row.class_src2], [row.bbox_src1, row.bbox_src2])
            for row in read_json_rows(path, _Duet)
        ]
    entries = [
        media.entry(
            name,
            _video,
            label="+".join(sounding),
            boxes=as_boxes([(x, y, x + width, y + height) for x, y, width, height in boxes]),
            sounds=(media.sound(_video(name)),),
            meta={"sounding": sounding},
        )
        for name, sounding, boxes in rows
    ]
    return Index(assign_parts(entries, config))


def _video(name: str) -> str:
    """Return the video of a frame ``<video>_<clip>_<frame>``."""
    return name.rsplit("_", 2)[0]
