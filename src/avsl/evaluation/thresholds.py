"""The fixed threshold of a model, and the peak below which no visible source sounds, chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsl.evaluation.maps import Maps
from avsl.functional import localization as F
from avsl.metrics import ThresholdSweep

# Of validation's rows with a source in view, the share whose map's peak counts as one.
_KEPT = 0.95
# Share of the frame that boxes cover: of VGG-SS's 5,158 test clips 27 % in the median, 33 % in the mean.
_COVERED = 0.3


@dataclass(frozen=True)
class Thresholds:
    """What validation chooses.

    Attributes:
        fixed: the model's threshold, chosen on all rows.
        rows: (N,) float64, the threshold at which each row is scored: chosen on the other half of the recordings, so
            that the score is none of the rows that the threshold fits.
        cross_fitted: False where too few recordings have a source in view to be halved; ``rows`` are ``fixed`` then.
    """

    fixed: float
    rows: Tensor
    cross_fitted: bool


def choose_thresholds(maps: Maps) -> Thresholds:
    """The threshold with the best CIoU@0.5 on maps of validation; silent rows do not count.

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
    """The peak of a map below which no visible source sounds: 95 % of validation's sounding rows reach it.

    Rows without a source in view do not count, as hardly any data set's validation has them: what this rejects of them
    is for a test to say.

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
    """The threshold and the presence of a model where no row has boxes.

    The threshold is the confidence that 30 % of all cells of the maps reach, as boxes cover about so much of a frame;
    the presence the peak that 95 % of the maps reach, as if a source were in view of each.
    """
    confidence = maps.confidence
    threshold = float(np.quantile(confidence.numpy(), 1 - _COVERED))
    side = maps.reader.data.manifest.image_size
    return threshold, _reached(F.resize_as(confidence, (side, side), "fixed").amax((1, 2)))


def _reached(peaks: Tensor) -> float:
    """What `_KEPT` of (N,) peaks reach."""
    return float(peaks.sort().values[int((1 - _KEPT) * len(peaks))])
