"""cIoU of masks and its summaries: success rate, AUC, interactive IoU, size classes."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from avsl.functional.localization.masks import count, resize_as

AREA_BUCKETS: Final = ("small", "medium", "large", "huge")
"""Names of `area_bucket`'s values."""

_AREA_SIDES: Final = (32, 96, 144)
_AREA_FRAME: Final = 224


def ciou(pred: Tensor, truth: Tensor) -> Tensor:
    """Consensus intersection over union: Σ pred·truth / (Σ truth + Σ pred·[truth = 0]).

    On a binary truth it is the IoU (Senocak et al., CVPR 2018, arXiv 1803.03849).

    Args:
        pred: (B, H, W) bool.
        truth: (B, H, W), bool, or floating in [0, 1].

    Returns:
        (B,) float64; NaN where the truth is empty, because the published protocols leave such samples out.

    Examples:
        >>> pred = torch.tensor([[[True, True, False, False]]])
        >>> ciou(pred, torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]))
        tensor([0.3333], dtype=torch.float64)
        >>> ciou(pred, torch.tensor([[[1.0, 0.5, 0.0, 0.0]]]))
        tensor([1.], dtype=torch.float64)
    """
    if truth.dtype == torch.bool:
        area, hit = count(truth).double(), count(truth & pred).double()
        outside = count(pred).double() - hit
    else:
        # Sums of 0, 0.5 and 1 are exact in float32 up to 2^23 pixels.
        area = truth.sum((-2, -1)).double()
        hit = (truth * pred).sum((-2, -1)).double()
        outside = count(pred & (truth == 0)).double()
    return (hit / (area + outside)).masked_fill(area == 0, torch.nan)


def ciou_by_threshold(maps: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
    """The cIoU of the ``fixed`` convention at each of T thresholds, in one pass over the pixels.

    Args:
        maps: (B, h, w) confidence in [0, 1].
        truth: (B, H, W) in [0, 1].
        thresholds: (T,) rising, on the device of the maps.

    Returns:
        (B, T) float64; NaN where the truth is empty.
    """
    resized = resize_as(maps, (truth.shape[-2], truth.shape[-1]), "fixed")
    hit, outside = (sums_above(resized, weight, thresholds) for weight in (truth, truth == 0))
    area = hit[:, :1]
    overlap: Tensor = hit[:, 1:] / (area + outside[:, 1:])
    return overlap.masked_fill(area == 0, torch.nan)


def sums_above(values: Tensor, weight: Tensor, thresholds: Tensor) -> Tensor:
    """The weight of the pixels whose value reaches each of T thresholds, in one pass over the pixels.

    Args:
        values: (B, H, W).
        weight: (B, H, W); sums of whole numbers and halves are exact.
        thresholds: (T,) rising, on the device of the values.

    Returns:
        (B, 1 + T) float64: the weight of all pixels, then of those with values >= each threshold.

    Examples:
        >>> values, weight = torch.tensor([[[0.2, 0.6, 0.9]]]), torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> sums_above(values, weight, torch.tensor([0.5, 0.8]))
        tensor([[7., 6., 4.]], dtype=torch.float64)
    """
    samples, levels = len(values), len(thresholds) + 1
    # A pixel at level k reaches the k lowest thresholds.
    level = torch.bucketize(values, thresholds.to(values.dtype), right=True)
    slot = (level + torch.arange(samples, device=level.device)[:, None, None] * levels).flatten()
    sums = torch.zeros(samples * levels, dtype=torch.float64, device=slot.device)
    sums.index_add_(0, slot, weight.flatten().double())
    return sums.view(samples, levels).flip(1).cumsum(1).flip(1)


def success_rate(scores: Tensor, at: float = 0.5, *, strict: bool = False) -> Tensor:
    """CIoU@``at``: the share of samples whose cIoU is at least ``at`` (AP50 in EZ-VSL's code); () float64.

    With ``strict`` only samples above ``at`` count, as in the precision of SLAVC's and of the multi-source code.

    Raises:
        ValueError: there is no sample.

    Examples:
        >>> success_rate(torch.tensor([0.2, 0.5, 0.6, 0.9])).item()
        0.75
    """
    if scores.numel() == 0:
        raise ValueError("a success rate needs at least one sample")
    return (scores > at if strict else scores >= at).double().mean()


def auc(scores: Tensor) -> Tensor:
    """Area under the success rate over the 21 thresholds 0, 0.05, …, 1 by the trapezoid rule; () float64.

    Raises:
        ValueError: there is no sample.

    Examples:
        >>> round(auc(torch.tensor([0.0, 1.0])).item(), 4)
        0.5125
    """
    thresholds = [0.05 * step for step in range(21)]
    rates = torch.stack([success_rate(scores, at) for at in thresholds])
    return torch.trapezoid(rates, torch.tensor(thresholds, dtype=rates.dtype, device=rates.device))


def summarize(scores: Tensor) -> dict[str, Tensor]:
    """CIoU@0.5 (``ciou``), CIoU@0.7 (``ciou_70``), ``auc`` and ``mean_ciou`` of (B,) cIoU; each () float64.

    Raises:
        ValueError: there is no sample.
    """
    return {
        "ciou": success_rate(scores),
        "ciou_70": success_rate(scores, 0.7),
        "auc": auc(scores),
        "mean_ciou": scores.mean(),
    }


def interactive_iou(scores: Tensor, group: Tensor) -> Tensor:
    """Interactive IoU: the lowest cIoU of each group of samples that share a frame and differ in sound.

    A model that ignores the sound cannot localize every source of a group (Senocak et al., arXiv 2407.13676). The
    success rate of the result is IIoU, its AUC is IAUC.

    Args:
        scores: (B,) cIoU.
        group: (B,) integer, equal within a group.

    Returns:
        (G,) in ascending order of the groups' numbers.

    Examples:
        >>> interactive_iou(torch.tensor([0.9, 0.8, 0.1]), group=torch.tensor([0, 1, 1]))
        tensor([0.9000, 0.1000])
    """
    ids, row = torch.unique(group, return_inverse=True)
    return scores.new_full((len(ids),), torch.inf).scatter_reduce(0, row, scores, "amin")


def area_bucket(truth: Tensor) -> Tensor:
    """SLAVC's size class of each truth, by its share of the frame; the bounds are 32², 96² and 144² of 224² pixels.

    Shape: (B, H, W) -> (B,) int64, an index into `AREA_BUCKETS`; a truth on a bound belongs to the larger class.

    Examples:
        >>> truth = torch.zeros(1, 224, 224)
        >>> truth[0, :32, :32] = 1
        >>> AREA_BUCKETS[area_bucket(truth)]
        'medium'
    """
    area = count(truth) * _AREA_FRAME**2
    pixels = truth.shape[-2] * truth.shape[-1]
    bounds = torch.tensor([side**2 * pixels for side in _AREA_SIDES], device=truth.device)
    return torch.bucketize(area, bounds, right=True)
