"""Detection scores over sounding and silent samples."""

from __future__ import annotations

import torch
from torch import Tensor

from avsl.functional import detection as D
from avsl.functional import localization as F
from avsl.metrics.samples import SampleMetric, validate


class DetectionScore(SampleMetric):
    """SLAVC's extended protocol (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634): silent samples are negatives.

    A sample's confidence is the mean of its map's highest quarter of pixels; masks are binarized at the fixed
    threshold. Deviation: a sample is silent where its truth is empty, so a sample whose boxes vanish at the truth's
    resolution is a negative instead of a missed source.

    Args:
        n: number of samples.
        threshold: the fixed threshold on the confidence.

    Examples:
        >>> metric = DetectionScore(n=3, threshold=0.5)
        >>> confidence = torch.zeros(3, 4, 4)
        >>> confidence[:, 1, 1] = torch.tensor([0.9, 0.8, 0.1])
        >>> truth = torch.zeros(3, 4, 4)
        >>> truth[:2, 1, 1] = 1
        >>> metric.update(confidence, truth)
        >>> metric.compute()["max_f1"].item()
        1.0
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
