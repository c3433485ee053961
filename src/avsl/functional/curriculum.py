"""Curriculum data selection: how reliable a clip's labels are, and how many clips are admitted when."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["linear", "root", "step"]


def pace(step: float, start: float, end: float, length: float, shape: Shape) -> float:
    """The pacing function: the share of clips admitted at ``step``.

    Args:
        step: optimizer steps since pseudo-labels are used, from 0.
        start: share at step 0, in [0, 1].
        end: share from step ``length`` on, in [start, 1].
        length: steps in which the share grows; 0 for ``end`` at once.
        shape: ``linear``; ``root``, √(start² + (end² − start²) · step / length), in which each admitted clip is new
            for about as long (Platanios et al., NAACL 2019, arXiv 1903.09848, equation 7); ``step``, ``start`` until
            ``length``.
    """
    if step >= length:
        return end
    if shape == "step":
        return start
    progress = step / length
    if shape == "linear":
        return start + (end - start) * progress
    return math.sqrt(start**2 + (end**2 - start**2) * progress)


def soft_iou(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Agreement of two soft labels: Σ min / Σ max over the known cells; on binary masks their IoU.

    Unlike 1 − mean |difference|, which every pair of nearly silent maps maximizes, it measures agreement on where the
    sound is.

    Args:
        first: (B, h, w) in [0, 1].
        second: (B, h, w) in [0, 1].
        known: (B, h, w) in {0, 1}.

    Returns:
        (B,) in [0, 1]; 0 where both are empty.
    """
    shared = (torch.minimum(first, second) * known).sum((-2, -1))
    either = (torch.maximum(first, second) * known).sum((-2, -1))
    return shared / either.clamp_min(torch.finfo(either.dtype).tiny)


def admission_threshold(reliability: Tensor, share: float) -> float:
    """The reliability from which a clip is among the most reliable ``share``.

    Args:
        reliability: (N,) of all clips that are ranked.
        share: in [0, 1].

    Returns:
        the ⌈share · N⌉-th largest value, so that ties at the threshold are all admitted; infinity where that is none.
    """
    # Less what rounding adds to a whole number.
    count = math.ceil(share * len(reliability) - 1e-6)
    if count < 1:
        return math.inf
    return float(reliability.kthvalue(len(reliability) - count + 1).values)
