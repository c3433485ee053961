"""Any folder of videos, or of frames and sounds, with or without boxes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pydantic import Field, field_validator

from avsl.data.annotation_files import Annotation, BoxForm, BoxUnits, read_annotations
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media
from avsl.data.partition import add_pool, assign_parts
from avsl.data.recordings import Recordings, count_recordings
from avsl.errors import DataError


class FolderConfig(CutConfig):
    """A folder of videos, or with ``frames/`` and ``audio/`` whose files have equal names.

    A video gives one row, its middle frame and the sound around it, or ``frames_per_clip`` where it has no boxes.
    Videos may lie in folders named after their classes. Rows of one recording lie on one side of the split.

    Attributes:
        annotations: file in the folder with boxes, JSON or CSV (see
            `avsl.data.annotation_files.read_annotations`); empty: none.
        boxes: ``xyxy``: two corners; ``xywh``: a corner, width and height.
        units: ``fractions`` of the frame, or ``pixels`` of the picture in the folder.
        recording_pattern: regular expression with one group, the recording that a clip of this name was cut from, as
            ``(.+)_take.``; empty: the usual forms of names (see `avsl.data.recordings.Recordings`). A ``recording``
            in the annotation file goes before both.
        test_share: of the annotated rows; what is not annotated is unlabeled training material.
    """

    annotations: str = ""
    boxes: BoxForm = "xyxy"
    units: BoxUnits = "fractions"
    recording_pattern: str = ""
    test_share: float = Field(0.2, ge=0, le=1)

    @field_validator("recording_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if pattern and groups != 1:
            raise ValueError(f"has {groups} groups, not one, the recording")
        return pattern


def read_index(config: FolderConfig) -> Index:
    """List what is annotated and what else lies in the folder.

    Raises:
        DataError: the folder or the annotation file is missing or wrong.
    """
    root = Path(config.root)
    media = Media.read(root, class_folders=True)
    known: dict[str, Annotation] = {}
    if config.annotations:
        path = root / config.annotations
        for written, row in read_annotations(path, config.boxes, config.units).items():
            name = media.find(written, row.label)
            if name in known:
                raise DataError(f"{path}: '{name}' is annotated twice, once as '{written}'")
            known[name] = row
    names = media.names()
    recordings = Recordings([*names, *known], config.recording_pattern, {row.label for row in known.values()})
    rows = media.annotated(known, recordings)
    if config.units == "pixels":
        rows = [replace(row, in_pixels=True) for row in rows]
    said = {name: (row.recording, "recording") for name, row in known.items() if row.recording}
    counted = count_recordings(said.get(name) or recordings.match(name) for name in {*names, *known})
    index = add_pool(assign_parts(rows, config), media.pool(known, recordings))
    return replace(index, notes=[*media.notes, counted])
