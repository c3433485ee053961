"""Confidence maps and boxes of frames of any size and their sounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from avsl.data.media.audio import scale_into_range
from avsl.data.media.image import resize_frame
from avsl.errors import AvslError
from avsl.models import ExportedModel, LocalizerEnsemble, load_exported

# Batch size, which bounds the memory for a long video.
_BATCH = 32


class InputError(AvslError):
    """An invalid frame or waveform; the message is one sentence that names its position."""


class Box(NamedTuple):
    """A sounding region: corners as fractions of the frame's width and height, and its mean confidence."""

    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float


class Localization(NamedTuple):
    """The localization of a sound.

    Attributes:
        map: P in [0, 1] at the frame's size, (H, W).
        boxes: boxes of the map, see :func:`find_boxes`.
        grid: P on the network's grid, (h, w), of which the map is the bilinear interpolation.
    """

    map: NDArray[np.float32]
    boxes: list[Box]
    grid: NDArray[np.float32]


class Predictor:
    """An exported model for frames of any size and sounds of any length.

    Attributes:
        sample_rate: sample rate of its input sounds, Hz.
        duration_s: length of the sounds that it localizes, s.
        threshold: confidence from which a pixel counts as sounding.
        presence: peak of a map below which no visible source sounds.
        image_size: side of the square to which frames are resized, px.
        trained_on: name of the training data set; empty if unknown.
    """

    def __init__(self, model: LocalizerEnsemble, description: ExportedModel, device: str = "cpu") -> None:
        self.sample_rate = description.sample_rate
        self.duration_s = description.duration_s
        self.threshold = description.threshold
        self.presence = description.presence
        self.image_size = description.image_size
        self.trained_on = description.trained_on
        self._model = model.to(device)
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Predictor:
        """Load ``model.json`` and ``model.safetensors``.

        Raises:
            avsl.schema.ConfigError: a file is missing or damaged.
        """
        return cls(*load_exported(folder), device)

    def predict(
        self, frames: Sequence[NDArray[np.uint8]], waveforms: Sequence[NDArray[np.floating[Any]]]
    ) -> list[Localization]:
        """Localize each sound in its frame.

        Args:
            frames: RGB, (H, W, 3) each, of any size.
            waveforms: mono at the model's sample rate in [-1, 1], (T,) each; as in preparation, shorter
                sounds than the model's duration are tiled, longer ones are cut to their center, and louder ones than 1
                are scaled to 1.

        Returns:
            One localization for each frame.

        Raises:
            InputError: the numbers of frames and waveforms differ, a frame is not (H, W, 3) uint8, or a waveform
                is empty, not mono, not floating point, or holds NaN or infinity.
        """
        if len(frames) != len(waveforms):
            raise InputError(f"got {len(frames)} frames but {len(waveforms)} waveforms")
        pictures = [self._picture(frame, row) for row, frame in enumerate(frames)]
        sounds = [self._sound(waveform, row) for row, waveform in enumerate(waveforms)]
        found: list[Localization] = []
        for start in range(0, len(frames), _BATCH):
            rows = slice(start, start + _BATCH)
            confidence = self._model.predict(
                torch.from_numpy(np.stack(pictures[rows])).to(self._device),
                torch.from_numpy(np.stack(sounds[rows])).to(self._device),
            ).cpu()
            for grid, frame in zip(confidence, frames[rows], strict=True):
                whole = F.interpolate(grid[None, None], size=frame.shape[:2], mode="bilinear", align_corners=False)
                confident = whole[0, 0].numpy()
                found.append(Localization(confident, find_boxes(confident, self.threshold), grid.numpy()))
        return found

    def _picture(self, frame: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise InputError(f"frame {row} is {frame.dtype} of shape {frame.shape}, expected uint8 (H, W, 3)")
        return resize_frame(frame, self.image_size)

    def _sound(self, waveform: NDArray[np.floating[Any]], row: int) -> NDArray[np.float32]:
        if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
            raise InputError(
                f"waveform {row} is {waveform.dtype} of shape {waveform.shape}, expected mono floats (T,) in [-1, 1]"
            )
        if not len(waveform):
            raise InputError(f"waveform {row} is empty")
        if not np.isfinite(waveform).all():
            raise InputError(f"waveform {row} holds NaN or infinite samples")
        length = round(self.duration_s * self.sample_rate)
        start = max(0, (len(waveform) - length) // 2)
        return scale_into_range(np.resize(waveform[start : start + length], length))[0]


def find_boxes(confidence: NDArray[np.float32], threshold: float) -> list[Box]:
    """Bounding boxes of the 4-connected regions with P >= threshold.

    Args:
        confidence: P, (H, W).
        threshold: in [0, 1].

    Returns:
        Boxes in descending order of their region's total confidence (area times mean).
    """
    labels, count = ndimage.label(confidence >= threshold)
    height, width = confidence.shape
    regions = range(1, count + 1)
    means = ndimage.mean(confidence, labels, regions)
    totals = ndimage.sum_labels(confidence, labels, regions)
    found = [
        Box(xs.start / width, ys.start / height, xs.stop / width, ys.stop / height, float(mean))
        for (ys, xs), mean in zip(ndimage.find_objects(labels), means, strict=True)
    ]
    return [found[k] for k in np.argsort(-np.asarray(totals), kind="stable")]
