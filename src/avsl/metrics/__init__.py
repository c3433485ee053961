"""torchmetrics classes over `avsl.functional`."""

from avsl.metrics.detection import ExtendedScore
from avsl.metrics.localization import FalsePositiveRate, InteractiveScore, LocalizationScore, ThresholdSweep
from avsl.metrics.segmentation import MultiSourceScore, SegmentationScore

__all__ = [
    "ExtendedScore",
    "FalsePositiveRate",
    "InteractiveScore",
    "LocalizationScore",
    "MultiSourceScore",
    "SegmentationScore",
    "ThresholdSweep",
]
