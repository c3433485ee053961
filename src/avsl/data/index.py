"""The index of a data set on disk: its entries and the settings that every data set shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from avsl.data.media.checks import SILENCE_DB
from avsl.data.prepared.format import FrameFormat
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
MIDDLE = 0.5
"""The middle of a video, as a share of its length."""


@dataclass(frozen=True, slots=True)  # a data set may have 200,000
class Entry:
    """One row to prepare: a frame with a sound and its annotation.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording of the row; all rows of a recording are in one part.
        group_id: equal for rows that share a frame.
        part: one of ``avsl.data.prepared.format.PARTS``; empty until `assign_parts` decides.
        label: class name; empty if unknown.
        picture: a picture, or a video with the frame; None if the folder has none.
        sounds: sound files, whose sum is the sound; None for a file that the folder lacks.
        boxes: (k, 4) x0, y0, x1, y1 as fractions of the frame, as annotated; k = 0 if nothing in view sounds; None if
            there are no boxes.
        mask: a picture or array that is not zero on the pixels that sound.
        time_s: time of the frame in a video and of the middle of the sound; None for `moment`.
        moment: the same as a share of the video's length.
        meta: small JSON values.
        broken: why the row cannot be used, if the lists show it.
        sound_source: the recording of the sound, if it is not the frame's.
        in_pixels: whether the boxes are in pixels of the picture instead of fractions.
    """

    sample_id: str
    source_id: str
    group_id: str
    part: str = ""
    label: str = ""
    picture: Path | None = None
    sounds: tuple[Path | None, ...] = (None,)
    boxes: NDArray[np.float64] | None = None
    mask: Path | None = None
    time_s: float | None = None
    moment: float = MIDDLE
    meta: Mapping[str, Any] = field(default_factory=dict)
    broken: str = ""
    sound_source: str = ""
    in_pixels: bool = False

    @property
    def sources(self) -> set[str]:
        """All recordings of the row."""
        return {self.source_id, self.sound_source or self.source_id}

    @property
    def annotated(self) -> bool:
        """Whether the row has an annotation, which may say that nothing in view sounds."""
        return self.boxes is not None or self.mask is not None

    def files(self) -> list[Path | None]:
        """All files of the row; None for a file that the folder lacks."""
        return [self.picture, *self.sounds, *([self.mask] if self.mask else [])]


@dataclass(frozen=True)
class Leak:
    """A row of a training list that belongs to a held-out part.

    Attributes:
        sample_id: the row.
        part: the part of this row or of another row of its recording.
        same: whether the row is held out, and not only its recording.
    """

    sample_id: str
    part: str
    same: bool


@dataclass(frozen=True)
class LazyEntries(Iterable[Entry]):
    """Rows that each iteration makes again, because a list of them takes a kilobyte per row.

    Attributes:
        rows: returns an iterator over them.
    """

    rows: Callable[[], Iterable[Entry]]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.rows())


@dataclass(frozen=True)
class Index:
    """All rows of a data set.

    Attributes:
        entries: the rows, which can be iterated several times; rows of published test lists are included even if
            their files are missing.
        leaks: held-out rows that were dropped from a training list.
        left_out: number of rows without a part: unannotated media of held-out recordings, and test rows whose frame is
            in a training or validation row.
        notes: messages about how the folder was read.
    """

    entries: Iterable[Entry]
    leaks: Sequence[Leak] = ()
    left_out: int = 0
    notes: Sequence[str] = ()


class IndexedConfig(StrictConfig):
    """Settings that all data sets on disk share.

    Attributes:
        root: folder of the data set.
        image_size: side of the prepared frames, pixels.
        duration_s: length of the prepared sounds, at 16 kHz.
        silence_db: peak of a sound, relative to full scale, below which it is silent and its row unusable.
        max_broken: highest share of the listed rows that may be missing or unusable.
        shard_rows: largest number of rows in a shard; the average is about 43 % of it.
        frames: ``raw`` pixels, which load fastest, or ``jpeg`` (quality 95), a fraction of their size.
        frames_per_clip: rows per unannotated training video: 1 takes its middle frame, n the midpoints of n equal
            parts, each with the sound around it. An annotated video has one row, because its boxes belong to one frame.
            Label ratios are shares of all rows.
    """

    root: str
    image_size: int = Field(224, ge=16, le=1024)
    duration_s: float = Field(3.0, gt=0, le=60)
    silence_db: float = Field(SILENCE_DB, le=0)
    max_broken: float = Field(0.1, ge=0, lt=1)
    shard_rows: int = Field(128, ge=1, le=4096)
    frames: FrameFormat = "raw"
    frames_per_clip: int = Field(1, ge=1, le=16)


class CutConfig(IndexedConfig):
    """A data set whose annotated rows are cut into train, validation and test by source.

    Attributes:
        test_share: share of the annotated recordings for testing; 1 for published test sets.
        validation_share: share of the other annotated recordings for validation.
        seed: seed of the choice of recordings.
    """

    test_share: float = Field(1.0, ge=0, le=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)


LeakRule = Literal["stop", "drop"]


"""How to handle a training list that shares rows or recordings with held-out parts."""


class ListedConfig(CutConfig):
    """A data set with published lists of silent and of unlabeled rows.

    Attributes:
        silent_list: extended set: CSV of video, audio and ``non-sounding``, the rows of ``test_offscreen``; empty:
            none. Rows whose frame or sound is in training or validation are left out.
        train_list: file with the ids of the unlabeled rows; empty: all other media in the folder that are not held out.
        leak: ``stop`` if the training list has rows or recordings of the held-out parts, or ``drop`` such rows.
    """

    silent_list: str = ""
    train_list: str = ""
    leak: LeakRule = "stop"
