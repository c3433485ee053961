"""torchmetrics classes over `avsl.functional`: the only place where scores accumulate."""

from __future__ import annotations

from collections.abc import Callable

from torchmetrics import Metric

from avsl.metrics.detection import DetectionScore
from avsl.metrics.part import PartScore
from avsl.metrics.threshold import ThresholdSweep

METRICS: dict[str, Callable[[float], Metric]] = {}
"""A project's further scores of a part by name, each made from the fixed threshold.

``update`` takes confidence (B, h, w) in [0, 1] and truth (B, H, W) bool, which is empty on silent samples; ``compute``
gives one number, NaN where the score is not defined.
"""

__all__ = ["METRICS", "DetectionScore", "PartScore", "ThresholdSweep"]
