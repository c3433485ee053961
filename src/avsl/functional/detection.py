"""Silent rows counted against a model: SLAVC's extended protocol (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634).

A row is a detection where its confidence reaches a threshold; the detection is right where something in view sounds
and the predicted mask has cIoU >= 0.5 with it. ``scores`` are what `avsl.functional.localization.ciou` gives: NaN on
rows where nothing in view sounds, which can only be detected wrongly.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def top_quarter_mean(maps: Tensor) -> Tensor:
    """How sure a map is that something sounds: the mean of the highest quarter of its pixels, rounded up.

    It repeats NumPy's order of summation, so that equal maps tie, and maps are ordered, as in the published code.

    Args:
        maps: (B, H, W) in [0, 1] at the size of the truth; a cosine S as (S + 1) / 2.

    Returns:
        (B,) float32.
    """
    pixels = maps.flatten(1).float()
    count = (pixels.shape[1] + 3) // 4
    return _pairwise_sum(pixels.topk(count, dim=1).values.flip(1)) / count


def _pairwise_sum(terms: Tensor) -> Tensor:
    """Sum the last dimension as NumPy sums a contiguous float32 array: eight lanes in blocks of up to 128 terms."""
    count = terms.shape[-1]
    if count > 128:
        half = count // 2 - count // 2 % 8
        if 2 * half == count:
            return _pairwise_sum(terms.reshape(*terms.shape[:-1], 2, half)).sum(-1)
        return _pairwise_sum(terms[..., :half]) + _pairwise_sum(terms[..., half:])
    whole = count - count % 8
    total = terms.new_zeros(terms.shape[:-1])
    if whole:
        lanes = reduce(torch.add, torch.split(terms[..., :whole], 8, dim=-1))
        while lanes.shape[-1] > 1:
            lanes = lanes[..., ::2] + lanes[..., 1::2]
        total = lanes[..., 0]
    return reduce(torch.add, terms[..., whole:].unbind(-1), total)


def precision_recall(confidence: Tensor, scores: Tensor, thresholds: Tensor, at: float = 0.5) -> tuple[Tensor, Tensor]:
    """Precision and recall of the detections at each of T thresholds.

    Deviating from other detection metrics, a detection in the wrong place is no missed source: recall is the share
    of right ones among the right and the undetected.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent rows.
        thresholds: (T,), of the confidence's type.
        at: the cIoU that makes a detection right.

    Returns:
        Precision and recall, (T,) float64 in [0, 1]; 1 where nothing is detected, and where nothing could be missed.
    """
    detected = confidence >= thresholds[:, None]
    right = (detected & (scores >= at)).sum(1).double()
    missed = (~detected & ~scores.isnan()).sum(1)
    return _share(right, detected.sum(1)), _share(right, right + missed)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, 1.0, part / whole)


def average_precision(confidence: Tensor, scores: Tensor, at: float = 0.5) -> Tensor:
    """Area under the precision envelope over recall, at up to 400 of the rows' own confidences; () float64.

    As published: the highest confidence is left out, of N rows every (N // 200)-th confidence counts from the second
    highest down, and no area stands below the first one's recall.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent rows.
        at: the cIoU that makes a detection right.

    Raises:
        ValueError: there is no row.
    """
    ranked = _ranked(confidence)
    thresholds = ranked[:-1].flip(0)[:: max(1, len(ranked) // 200)]
    precision, recall = precision_recall(confidence, scores, thresholds, at)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return (envelope[:-1] * recall.diff()).sum()


def max_f1(confidence: Tensor, scores: Tensor, at: float = 0.5) -> Tensor:
    """The highest F1 at the rows' own confidences, of N rows every (N // 10)-th from the lowest up; () float64.

    The published code prints the F1 at these rounded to 0.1 %; this one is not rounded.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent rows.
        at: the cIoU that makes a detection right.

    Raises:
        ValueError: there is no row.
    """
    ranked = _ranked(confidence)
    return f1(*precision_recall(confidence, scores, ranked[:: max(1, len(ranked) // 10)], at)).amax()


def f1(precision: Tensor, recall: Tensor) -> Tensor:
    """Harmonic mean; 0 where both are 0."""
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total, 0.0)


def _ranked(confidence: Tensor) -> Tensor:
    if len(confidence) == 0:
        raise ValueError("detections are counted over at least one row")
    return confidence.sort().values
