"""Any folder of videos, or of frames and sounds, with or without boxes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from avsl.data.annotation_files import read_annotations
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media
from avsl.data.partition import add_pool, assign_parts


class FolderConfig(CutConfig):
    """A folder of videos, or with ``frames/`` and ``audio/`` whose files have equal names.

    A video gives one row, its middle frame and the sound around it, or ``frames_per_clip`` where it has no boxes.

    Attributes:
        annotations: file in the folder with boxes, JSON or CSV (see
            `avsl.data.annotation_files.read_annotations`); empty: none.
        test_share: of the annotated rows; what is not annotated is unlabeled training material.
    """

    annotations: str = ""
    test_share: float = Field(0.2, ge=0, le=1)


def read_index(config: FolderConfig) -> Index:
    """List what is annotated and what else lies in the folder.

    Raises:
        DataError: the folder or the annotation file is missing or wrong.
    """
    root = Path(config.root)
    media = Media.read(root)
    known = read_annotations(root / config.annotations) if config.annotations else {}
    rows = [media.entry(name, label=label, boxes=boxes) for name, (label, boxes) in known.items()]
    return add_pool(assign_parts(rows, config), media.pool(known))
