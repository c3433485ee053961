"""torchmetrics classes over `avsl.functional`: the only place where scores accumulate."""

from avsl.metrics.detection import DetectionScore
from avsl.metrics.part import PartScore
from avsl.metrics.threshold import ThresholdSweep

__all__ = ["DetectionScore", "PartScore", "ThresholdSweep"]
