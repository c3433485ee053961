"""torchmetrics classes over `avsl.functional`."""

from avsl.metrics.localization import FalsePositiveRate, InteractiveScore, LocalizationScore, ThresholdSweep

__all__ = ["FalsePositiveRate", "InteractiveScore", "LocalizationScore", "ThresholdSweep"]
