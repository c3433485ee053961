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

ANNOTATIONS = "annotations.csv"
"""The annotation file that `avsl labels import` writes where the settings name none."""


class FolderConfig(CutConfig):
    """A folder of videos, or with ``frames/`` and ``audio/`` whose files have equal names.

    A video becomes one row, its middle frame with the sound around it; a video without boxes becomes
    ``frames_per_clip`` rows. Videos may lie in folders named after their classes. All rows of a recording are in the
    same part.

    Attributes:
        annotations: JSON or CSV file with boxes, relative to the folder (see
            `avsl.data.annotation_files.read_annotations`); empty: no boxes.
        boxes: ``xyxy``: two corners; ``xywh``: a corner, width and height.
        units: ``fractions`` of the frame, or ``pixels`` of the picture in the folder.
        recording_pattern: regular expression whose one group matches the recording in a clip's name, such as
            ``(.+)_take.``; empty: the usual forms of names (see `avsl.data.recordings.Recordings`). A ``recording``
            in the annotation file has precedence.
        test_share: share of the annotated rows in the test part; other rows are unlabeled training rows.
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
            raise ValueError(f"has {groups} groups; one is needed, the recording")
        return pattern


def read_index(config: FolderConfig) -> Index:
    """List the annotated and all other clips of the folder.

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
    stated = {name: (row.recording, "recording") for name, row in known.items() if row.recording}
    counted = count_recordings(stated.get(name) or recordings.match(name) for name in {*names, *known})
    index = add_pool(assign_parts(rows, config), media.pool(known, recordings))
    return replace(index, notes=[*media.notes, counted])
