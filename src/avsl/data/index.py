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
"""Of a video, as a share of its length."""


@dataclass(frozen=True, slots=True)  # there may be two hundred thousand
class Entry:
    """One row to prepare: a frame with a sound, and what is known of where the sound comes from.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording it comes from; a source lies on one side of a split.
        group_id: rows that share one frame share it.
        part: one of ``avsl.data.prepared.format.PARTS``; empty until `assign_parts` decides.
        label: class name; empty where not known.
        picture: a picture, or a video that shows it; None where the folder has none.
        sounds: recordings, added up; None where the folder has none.
        boxes: (k, 4) x0, y0, x1, y1 as fractions of the frame, as annotated; k = 0 where nothing in view sounds; None
            where nobody drew boxes.
        mask: a picture or array that is not zero on the pixels that sound.
        time_s: which frame of a video, and where in the recording the sound is centered; None is `moment`.
        moment: the same as a share of the video's length.
        meta: small JSON values.
        broken: why it cannot be used, where the lists already tell.
        sound_source: the recording its sound comes from, where that is another than the frame's.
        in_pixels: the boxes are in pixels of the picture, not in fractions.
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
        """Every recording that it is made of."""
        return {self.source_id, self.sound_source or self.source_id}

    @property
    def annotated(self) -> bool:
        """Whether somebody said where the sound comes from, if only that it comes from nowhere in view."""
        return self.boxes is not None or self.mask is not None

    def files(self) -> list[Path | None]:
        """Every file it needs; None for one that the folder lacks."""
        return [self.picture, *self.sounds, *([self.mask] if self.mask else [])]


@dataclass(frozen=True)
class Leak:
    """A row of a training list that belongs to a held-out part.

    Attributes:
        sample_id: the row.
        part: the part that holds it, or another row of its source.
        same: the row itself is held out, not only its source.
    """

    sample_id: str
    part: str
    same: bool


@dataclass(frozen=True)
class LazyEntries(Iterable[Entry]):
    """Rows that each iteration makes again: a list of them takes a kilobyte a row.

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
        entries: the rows, to be gone through as often as needed; those of published test lists whether their files are
            there or not.
        leaks: rows of a training list that were dropped because they are held out.
        left_out: rows that belong to no side: unannotated media of held-out sources, and test rows whose frame is
            learned from.
        notes: sentences on how the folder was read.
    """

    entries: Iterable[Entry]
    leaks: Sequence[Leak] = ()
    left_out: int = 0
    notes: Sequence[str] = ()


class IndexedConfig(StrictConfig):
    """What every data set on disk is prepared with.

    Attributes:
        root: the folder.
        image_size: side of the prepared frames, pixels.
        duration_s: of the prepared sound, at 16 kHz.
        silence_db: peak of a sound, relative to full scale, below which it is silent and its row unusable.
        max_broken: highest share of the listed rows that may be missing or unusable.
        shard_rows: most rows in one shard; on average there are some 43 % of it.
        frames: ``raw`` pixels, which load fastest, or ``jpeg`` (quality 95), a fraction of their size.
        frames_per_clip: rows of a training video that nobody annotated: 1 is its middle frame, n are the midpoints of n
            equal parts, each with the sound around it. They share their source and so their side. An annotated video
            stays one row, as its boxes are of the one frame that somebody looked at; label ratios are of all rows.
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
        test_share: of the annotated sources; published test sets are tests as a whole.
        validation_share: of the annotated sources that are not for testing.
        seed: draws the sources.
    """

    test_share: float = Field(1.0, ge=0, le=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)


LeakRule = Literal["stop", "drop"]


"""What becomes of a training list that shares rows or sources with held-out parts."""


class ListedConfig(CutConfig):
    """A data set with published lists of silent and of unlabeled rows.

    Attributes:
        silent_list: extended set: CSV of video, audio and ``non-sounding``, the rows of ``test_offscreen``; empty:
            none. A row whose frame or sound is learned from is left out.
        train_list: file with the ids of the unlabeled rows; empty: whatever else is in the folder and not held out.
        leak: ``stop`` where the training list holds rows or sources of the held-out parts, or ``drop`` those rows.
    """

    silent_list: str = ""
    train_list: str = ""
    leak: LeakRule = "stop"
