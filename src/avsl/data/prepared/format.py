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


"""Format of the frames in shards: pixels, or JPEG, which is smaller and is decoded at every read."""


@dataclass(frozen=True)
class Sample:
    """One frame with one sound.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording of the row; all rows of a recording are in one part.
        group_id: equal for rows that share a frame.
        part: one of ``PARTS``.
        label: class name of the sounding object.
        frame: (H, W, 3) uint8 RGB, H = W.
        waveform: (T,) int16, mono.
        boxes: (n, 4) float32, x0, y0, x1, y1 as fractions of the frame; n = 0 if nothing in view sounds;
            None if there are no boxes.
        mask: (H, W) bool, the exact pixels that sound, where known.
        meta: small JSON values; ``sounding`` are the classes of several simultaneous sources, ``boxes_256`` the boxes
            of all annotators in units of a 256-pixel frame, ``scaled`` is true if the sound was above full scale.
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

    file: str = Field(pattern=r"^[\w.-]+$")  # a file of the manifest's folder
    rows: int = Field(ge=0)
    bytes: int = Field(gt=0)
    sha256: str


class Manifest(StrictConfig):
    """The manifest of a prepared set.

    ``counts`` are the rows of each part, ``expected`` the rows that the data set's lists name, including unusable ones.
    ``content_hash`` is the SHA-256 over the hashes of all shards; it is equal for equal data.
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
