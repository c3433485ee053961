"""SLAVC's extended protocol, in which silent samples count (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634).

A sample is detected where its confidence reaches a threshold. The detection is right where something in view sounds and
the predicted mask has cIoU >= 0.5 with it. ``scores`` come from `avsl.functional.localization.ciou`: they are NaN on
silent samples, whose detections are always wrong.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def top_quarter_mean(maps: Tensor) -> Tensor:
    """The confidence of a map that something sounds: the mean of the highest quarter of its pixels.

    The sum repeats NumPy's order of additions, so that maps tie and rank as in the published code.

    Args:
        maps: (B, H, W) in [0, 1] at the size of the truth; a cosine S as (S + 1) / 2.

    Returns:
        (B,) float32; the number of pixels in a quarter is rounded up.

    Examples:
        >>> top_quarter_mean(torch.tensor([[[0.1, 0.9], [0.2, 0.3]]]))
        tensor([0.9000])
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

    Recall is the share of right detections among the right and the undetected: unlike in other detection metrics, a
    detection in the wrong place is no missed source.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent samples.
        thresholds: (T,), of the confidence's type.
        at: the cIoU that makes a detection right.

    Returns:
        Precision and recall, (T,) float64 in [0, 1]; a precision is 1 where nothing is detected, a recall is 1 where
        neither a right nor an undetected source is left.

    Examples:
        >>> confidence, scores = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.7, torch.nan, 0.6])
        >>> precision_recall(confidence, scores, torch.tensor([0.5]))
        (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    detected = confidence >= thresholds[:, None]
    right = (detected & (scores >= at)).sum(1).double()
    missed = (~detected & ~scores.isnan()).sum(1)
    return _share(right, detected.sum(1)), _share(right, right + missed)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, 1.0, part / whole)


def average_precision(confidence: Tensor, scores: Tensor, at: float = 0.5) -> Tensor:
    """Area under the precision envelope over recall, () float64.

    The published code takes its thresholds from the samples' own confidences: of N samples every (N // 200)-th from
    the second highest down. The area begins at the first threshold's recall.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent samples.
        at: the cIoU that makes a detection right.

    Raises:
        ValueError: there is no sample.
    """
    ranked = _ranked(confidence)
    thresholds = ranked[:-1].flip(0)[:: max(1, len(ranked) // 200)]
    precision, recall = precision_recall(confidence, scores, thresholds, at)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return (envelope[:-1] * recall.diff()).sum()


def max_f1(confidence: Tensor, scores: Tensor, at: float = 0.5) -> Tensor:
    """The highest F1, () float64, without the published code's rounding to 0.1 %.

    The thresholds are the samples' own confidences: of N samples every (N // 10)-th from the lowest up.

    Args:
        confidence: (N,).
        scores: (N,) cIoU, NaN on silent samples.
        at: the cIoU that makes a detection right.

    Raises:
        ValueError: there is no sample.
    """
    ranked = _ranked(confidence)
    return f1(*precision_recall(confidence, scores, ranked[:: max(1, len(ranked) // 10)], at)).amax()


def f1(precision: Tensor, recall: Tensor) -> Tensor:
    """Harmonic mean of precision and recall; 0 where both are 0."""
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total, 0.0)


def _ranked(confidence: Tensor) -> Tensor:
    if len(confidence) == 0:
        raise ValueError("detection scores need at least one sample")
    return confidence.sort().values
