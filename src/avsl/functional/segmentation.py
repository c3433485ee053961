"""Pixel-wise scores of maps: average precision, and AVSBench's mIoU and F-score.

Maps and truths are (B, H, W) of one size; a pixel sounds where the truth is not 0.
"""

from __future__ import annotations

from functools import reduce
from typing import Final

import torch
from torch import Tensor

from avsl.functional.localization import success_rate, sums_above

_BETA2: Final = 0.3
F_THRESHOLDS: Final = 255


def pixel_average_precision(maps: Tensor, truth: Tensor) -> Tensor:
    """Average precision of each map as a ranking of the pixels, Σ (R_k − R_{k−1}) P_k over its distinct values.

    Args:
        maps: (B, H, W) on any scale; equal pixels are taken together, as scikit-learn does.
        truth: (B, H, W).

    Returns:
        (B,) float64 in [0, 1]; NaN where the truth is empty.

    Examples:
        >>> pixel_average_precision(torch.tensor([[[0.9, 0.7, 0.1]]]), torch.tensor([[[1, 0, 1]]]))
        tensor([0.8333], dtype=torch.float64)
    """
    ranked, order = maps.flatten(1).sort(dim=1, descending=True)
    hit = (truth != 0).flatten(1).gather(1, order).double()
    rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    # The rank at which a pixel's run of equal values ends.
    end = torch.where(last, rank, ranked.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    precision = hit.cumsum(1).gather(1, end - 1) / end
    return (hit * precision).sum(1) / hit.sum(1)


def piap_as_published(pred: Tensor, truth: Tensor) -> Tensor:
    """PIAP as the code of AVGN (Mo & Tian, CVPR 2023) computes it, with swapped arguments.

    That code ranks pixels by the *truth* and takes the *binarized prediction* for the labels. Use it only to compare
    with printed figures; `pixel_average_precision` is the measure that the name states.

    Args:
        pred: (B, H, W) bool.
        truth: (B, H, W).

    Returns:
        (B,) float64 in [0, 1]; 0 where nothing is predicted, as scikit-learn gives.
    """
    return pixel_average_precision(truth, pred).nan_to_num(0.0)


def avs_iou(confidence: Tensor, truth: Tensor) -> Tensor:
    """AVSBench's IoU (Zhou et al., ECCV 2022, arXiv 2207.05042) of the mask where the confidence is above 0.5.

    Args:
        confidence: (B, H, W) in [0, 1], after the sigmoid.
        truth: (B, H, W).

    Returns:
        (B,) float32 in [0, 1]; where the truth is empty, the share of pixels outside the predicted mask.
    """
    pred, target = (confidence > 0.5).flatten(1), (truth != 0).flatten(1)
    silent = ~target.any(1)
    inter = torch.where(silent, (~pred).sum(1), (pred & target).sum(1))
    union = torch.where(silent, pred.shape[1], (pred | target).sum(1))
    return inter / (union + 1e-7)


def avs_f_scores(confidence: Tensor, truth: Tensor) -> Tensor:
    """AVSBench's F with β² = 0.3 at 255 thresholds from 0 to 1, in float32 and in the published order of operations.

    The F-score of a data set is the highest of the 255 means over its samples with a source.

    Args:
        confidence: (B, H, W) in [0, 1], after the sigmoid.
        truth: (B, H, W).

    Returns:
        (B, 255) float32 in [0, 1]; NaN where the truth is empty.
    """
    thresholds = torch.linspace(0, 1 - 1e-10, F_THRESHOLDS).to(confidence.device)
    target = (truth != 0).float()
    hit = sums_above(confidence.float(), target, thresholds).float()
    chosen = sums_above(confidence.float(), torch.ones_like(target), thresholds).float()
    area = hit[:, :1]
    precision, recall = hit[:, 1:] / (chosen[:, 1:] + 1e-20), hit[:, 1:] / (area + 1e-20)
    score = (1 + _BETA2) * precision * recall / (_BETA2 * precision + recall)
    # Without a true positive pixel, precision, recall and F are 0.
    return score.nan_to_num(0.0).masked_fill(area == 0, torch.nan)


def summarize_sources(scores: Tensor, pixel_ap: Tensor) -> dict[str, Tensor]:
    """The multi-source code's figures: ``p10``, ``p30``, ``p50`` and ``pixel_ap``, each () float64.

    Args:
        scores: (B,) cIoU; ``p10`` is the share of samples above 0.1.
        pixel_ap: (B,) pixel-wise average precisions; ``pixel_ap`` is their mean.

    Raises:
        ValueError: there is no sample.
    """
    rates = {f"p{percent}": success_rate(scores, percent / 100, strict=True) for percent in (10, 30, 50)}
    return rates | {"pixel_ap": pixel_ap.mean()}


def summarize_avs(iou: Tensor, f_scores: Tensor) -> dict[str, Tensor]:
    """AVSBench's figures ``miou`` and, if any truth is not empty, ``fscore``, each () float32.

    The F-score is the maximum over thresholds of the mean over samples.

    Args:
        iou: (B,) from `avs_iou`.
        f_scores: (B, 255) from `avs_f_scores`.

    Raises:
        ValueError: there is no frame.
    """
    if len(iou) == 0:
        raise ValueError("a segmentation score needs at least one frame")
    result = {"miou": iou.sum() / len(iou)}
    sounding = f_scores[~f_scores[:, 0].isnan()]
    if len(sounding):
        # The published code adds sample after sample in float32; a tree sum differs in the last bits.
        result["fscore"] = (reduce(torch.add, sounding.unbind()) / len(sounding)).amax()
    return result
