"""Detection scores over samples with and without a source in view."""

from __future__ import annotations

import torch
from torch import Tensor

from avsl.functional import detection as D
from avsl.functional import localization as F
from avsl.metrics.samples import SampleMetric, validate


class DetectionScore(SampleMetric):
    """SLAVC's extended protocol (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634): silent samples are negatives.

    A sample's confidence is the mean of its map's highest quarter of pixels; masks are cut at the fixed threshold.
    Deviating, a sample is silent where its truth is empty, so one whose boxes vanish at the truth's resolution is a
    negative and no missed source.

    Args:
        n: number of samples to come.
        threshold: the fixed one, on the confidence itself.
    """

    higher_is_better = True
    ciou: Tensor
    confidence: Tensor

    def __init__(self, n: int, threshold: float) -> None:
        super().__init__(n, {"ciou": torch.float64, "confidence": torch.float32})
        self.threshold = threshold

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w) confidence in [0, 1].
            truth: (B, H, W) in [0, 1]; empty where nothing in view sounds.

        Raises:
            ValueError: shapes do not pair up, or a map is not finite.
        """
        validate(maps, truth, silent=True)
        smooth = F.resize_as(maps, (truth.shape[-2], truth.shape[-1]), "fixed")
        ciou = F.ciou(F.binarize(smooth, "fixed", self.threshold), truth)
        self.put({"ciou": ciou, "confidence": D.top_quarter_mean(smooth)})

    def compute(self) -> dict[str, Tensor]:
        """``ap`` and ``max_f1`` in [0, 1], () float64.

        Raises:
            ValueError: there is no sample.
        """
        return {
            "ap": D.average_precision(self.confidence, self.ciou),
            "max_f1": D.max_f1(self.confidence, self.ciou),
        }
