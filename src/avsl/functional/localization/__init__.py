"""Localization scores of confidence maps: resizing, thresholding, cIoU, baselines.

Every step repeats the arithmetic of the published evaluation code, because a threshold at the map's median turns a
difference in the last bit into another pixel. Masks and maps are (B, H, W); a truth has the values 0 and 1, and 0.5 in
consensus maps.
"""

from avsl.functional.localization.baselines import trivial_maps
from avsl.functional.localization.ciou import (
    AREA_BUCKETS,
    area_bucket,
    auc,
    ciou,
    ciou_by_threshold,
    interactive_iou,
    success_rate,
    summarize,
    sums_above,
)
from avsl.functional.localization.masks import (
    CONVENTIONS,
    Convention,
    binarize,
    count,
    predict_mask,
    predict_masks,
    resize_as,
)
from avsl.functional.localization.resize import ResizeMode, minmax, resize_maps

__all__ = [
    "AREA_BUCKETS",
    "CONVENTIONS",
    "Convention",
    "ResizeMode",
    "area_bucket",
    "auc",
    "binarize",
    "ciou",
    "ciou_by_threshold",
    "count",
    "interactive_iou",
    "minmax",
    "predict_mask",
    "predict_masks",
    "resize_as",
    "resize_maps",
    "success_rate",
    "summarize",
    "sums_above",
    "trivial_maps",
]
