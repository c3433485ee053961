"""Agreement and consensus of several annotators of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from avsl.data.annotation_files import as_boxes
from avsl.data.datasets.flickr import consensus_boxes
from avsl.functional.boxes import box_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

MergeRule = Literal["consensus", "vote"]
"""How several annotators' boxes become one set, see `merge`."""
MERGE_RULES: tuple[MergeRule, ...] = get_args(MergeRule)
_SAME = 0.5
_GRID = 512


def merge(annotators: Sequence[NDArray[np.float64]], rule: MergeRule) -> NDArray[np.float64] | None:
    """Merge the boxes of several annotators.

    Args:
        annotators: (k, 4) boxes x0, y0, x1, y1 of each; k = 0 for no sounding object in view.
        rule: ``consensus``: where the boxes of at least two annotators overlap, as in Flickr-SoundNet; ``vote``: boxes
            that more than half of the annotators drew (IoU of at least 0.5), with the median of their corners.

    Returns:
        (n, 4) boxes; n = 0 if most annotators saw no sounding object; None if they do not agree. A single annotator's
        boxes are unchanged.
    """
    if len(annotators) == 1:
        return annotators[0]
    drawn = [boxes for boxes in annotators if len(boxes)]
    silent = len(annotators) - len(drawn)
    if silent > len(drawn):
        return as_boxes([])
    if silent == len(drawn):
        return None
    agreed = consensus_boxes(drawn) if rule == "consensus" else _vote(drawn, len(annotators))
    return agreed if len(agreed) else None


def _vote(drawn: Sequence[NDArray[np.float64]], n: int) -> NDArray[np.float64]:
    groups: list[list[NDArray[np.float64]]] = []
    for boxes in drawn:
        open_groups = list(groups)
        for box in boxes:
            overlaps = [_iou(group[0], box) for group in open_groups]
            if overlaps and max(overlaps) >= _SAME:
                open_groups.pop(int(np.argmax(overlaps))).append(box)
            else:
                groups.append([box])
    return as_boxes([np.median(group, axis=0).tolist() for group in groups if len(group) > n / 2])


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    overlap = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return float(overlap / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - overlap))


def agreement(annotators: Sequence[NDArray[np.float64]], width: int, height: int) -> float:
    """Return the mean IoU of all pairs of annotators; a pair that both see no sounding object counts as 1.

    Args:
        annotators: (k, 4) boxes in pixels of each, at least two.
        width: of the frame, pixels.
        height: of the frame, pixels.

    Returns:
        In [0, 1].
    """
    masks = [box_mask(boxes / (width, height, width, height), _GRID) for boxes in annotators]
    return fmean(
        float((one & other).sum() / either) if (either := (one | other).sum()) else 1.0
        for one, other in combinations(masks, 2)
    )
