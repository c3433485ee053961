"""The format of a prepared data set: samples, shards and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


PARTS = (
    "train",
    "validation",
    "test",
    "test_small",
    "test_duet",
    "test_offscreen",
    "test_swap",
    "test_unheard",
)


MANIFEST = "manifest.json"


FrameFormat = Literal["raw", "jpeg"]


"""How shards hold frames: as pixels, or as JPEG, a fraction of their size, which is decoded at every reading."""


@dataclass(frozen=True)
class Sample:
    """One frame with one sound.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording it comes from; a source lies on one side of a split.
        group_id: rows that share one frame share it.
        part: one of ``PARTS``.
        label: class name of the sounding object.
        frame: (H, W, 3) uint8 RGB, H = W.
        waveform: (T,) int16, mono.
        boxes: (n, 4) float32, x0, y0, x1, y1 as fractions of the frame; n = 0 where nothing in view sounds;
            None where nobody drew boxes.
        mask: (H, W) bool, the exact pixels that sound, where known.
        meta: small JSON values; under ``sounding`` the classes that sound at once, where they are several, under
            ``boxes_256`` the boxes of all annotators in units of a 256-pixel frame, where some agree in part only,
            under ``scaled`` that the sound was louder than full scale.
    """

    sample_id: str
    source_id: str
    group_id: str
    part: str
    label: str
    frame: NDArray[np.uint8]
    waveform: NDArray[np.int16]
    boxes: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


class ShardEntry(StrictConfig):
    """One shard in the manifest."""

    file: str = Field(pattern=r"^[\w.-]+$")  # in the manifest's folder, never outside
    rows: int = Field(ge=0)
    bytes: int = Field(gt=0)
    sha256: str


class Manifest(StrictConfig):
    """What a prepared set holds.

    ``counts`` are the rows of each part, ``expected`` those that its lists name, where there are lists; what is
    missing between the two could not be used. ``content_hash`` is the SHA-256 over the shards' own, in order: equal
    data, equal hash.
    """

    name: str
    image_size: int = Field(gt=0)
    sample_rate: int = Field(gt=0)
    n_samples_audio: int = Field(gt=0)
    counts: dict[str, int]
    classes: list[str]
    settings: dict[str, Any]
    shards: list[ShardEntry]
    content_hash: str
    expected: dict[str, int] = Field(default_factory=dict)
