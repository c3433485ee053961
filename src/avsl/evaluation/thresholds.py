"""The fixed threshold of a model, and the peak below which no visible source sounds, chosen on validation."""

from __future__ import annotations

import torch

from avsl.evaluation.maps import Maps
from avsl.functional import localization as F
from avsl.metrics import ThresholdSweep

# Of validation's rows with a source in view, the share whose map's peak counts as one.
_KEPT = 0.95


def choose_threshold(maps: Maps) -> float:
    """The fixed threshold with the best CIoU@0.5 on maps of validation; silent rows do not count.

    Raises:
        ValueError: no row has a source in view.
    """
    sweep = ThresholdSweep()
    for chunk in maps.chunks():
        sounding = F.count(chunk.truth) > 0
        sweep.update(chunk.confidence[sounding], chunk.truth[sounding])
    return sweep.best()


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
    return float(found.sort().values[int((1 - _KEPT) * len(found))])
