"""Choice of a model's fixed threshold and presence threshold on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsl.evaluation.maps import Maps
from avsl.functional import localization as F
from avsl.metrics import ThresholdSweep

# Share of validation's rows with a source in view whose peak counts as a source.
_KEPT = 0.95
# Share of the frame that boxes cover: of VGG-SS's 5,158 test clips 27 % in the median, 33 % in the mean.
_COVERED = 0.3


@dataclass(frozen=True)
class Thresholds:
    """Thresholds chosen on validation.

    Attributes:
        fixed: the model's threshold, chosen on all rows.
        rows: (N,) float64 threshold of each row, chosen on the half of the recordings without it, so that no row is
            scored at a threshold that was fitted to it.
        cross_fitted: False if too few recordings have a source in view to be halved; ``rows`` then equal ``fixed``.
    """

    fixed: float
    rows: Tensor
    cross_fitted: bool


def choose_thresholds(maps: Maps) -> Thresholds:
    """Choose the threshold with the best CIoU@0.5 on maps of validation, without silent rows.

    Raises:
        ValueError: no row has a source in view.
    """
    sweep = ThresholdSweep()
    recording = torch.from_numpy(maps.reader.data.recordings[maps.rows])
    for chunk in maps.chunks():
        sweep.update(chunk.confidence, chunk.truth, recording[chunk.rows])
    return Thresholds(sweep.best(), sweep.cross_fitted(), sweep.has_halves())


@torch.inference_mode()
def choose_presence(maps: Maps) -> float:
    """Choose the peak below which a map shows no visible source: 95 % of validation's rows with a source reach it.

    Silent rows are not used, because the validation part of most data sets has none; the test parts say how many of
    them are rejected.

    Raises:
        ValueError: no row has a source in view.
    """
    peaks = []
    for chunk in maps.chunks():
        smooth = F.resize_as(chunk.confidence, chunk.size, "fixed")
        peaks.append(smooth.amax((1, 2))[chunk.truth.flatten(1).any(1)])
    found = torch.cat(peaks)
    if not len(found):
        raise ValueError("no row has a source in view")
    return _reached(found)


def choose_without_boxes(maps: Maps) -> tuple[float, float]:
    """Choose the threshold and the presence threshold of a model if no row has boxes.

    30 % of the cells of all maps reach the threshold, because boxes cover about that share of a frame. 95 % of the maps
    reach the presence threshold, as if each had a source in view.
    """
    confidence = maps.confidence
    threshold = float(np.quantile(confidence.numpy(), 1 - _COVERED))
    side = maps.reader.data.manifest.image_size
    return threshold, _reached(F.resize_as(confidence, (side, side), "fixed").amax((1, 2)))


def _reached(peaks: Tensor) -> float:
    """The value that the share `_KEPT` of (N,) peaks reaches."""
    return float(peaks.sort().values[int((1 - _KEPT) * len(peaks))])
