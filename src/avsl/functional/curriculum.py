"""Curriculum data selection: how reliable a clip's labels are, and how many clips a step admits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["linear", "root", "step"]


def pace(step: float, start: float, end: float, length: float, shape: Shape) -> float:
    """The pacing function: the share of clips admitted at ``step``.

    Args:
        step: optimizer steps since the first use of pseudo-labels, from 0.
        start: share at step 0, in [0, 1].
        end: share from step ``length`` on, in [start, 1].
        length: steps over which the share grows; with 0 it is ``end`` from the first step.
        shape: ``linear``; ``root``, √(start² + (end² − start²) · step / length), which admits new clips more slowly
            the more there are (Platanios et al., NAACL 2019, arXiv 1903.09848, equation 7); ``step``, which stays at
            ``start`` until ``length``.

    Examples:
        >>> [pace(step, 0.5, 1.0, 100, "linear") for step in (0, 50, 100)]
        [0.5, 0.75, 1.0]
        >>> round(pace(50, 0.5, 1.0, 100, "root"), 3)
        0.791
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

    1 − mean |difference| would be near 1 for any two nearly silent maps; the soft IoU measures agreement on where the
    source is.

    Args:
        first: (B, h, w) in [0, 1].
        second: (B, h, w) in [0, 1].
        known: (B, h, w) in {0, 1}.

    Returns:
        (B,) in [0, 1]; 0 where both are empty.

    Examples:
        >>> first, second = torch.tensor([[[0.8, 0.2]]]), torch.tensor([[[0.4, 0.2]]])
        >>> soft_iou(first, second, known=torch.ones(1, 1, 2))
        tensor([0.6000])
    """
    shared = (torch.minimum(first, second) * known).sum((-2, -1))
    either = (torch.maximum(first, second) * known).sum((-2, -1))
    return shared / either.clamp_min(torch.finfo(either.dtype).tiny)


def admission_threshold(reliability: Tensor, share: float) -> float:
    """The lowest reliability among the most reliable ``share`` of clips.

    Args:
        reliability: (N,) of all ranked clips.
        share: in [0, 1].

    Returns:
        the ⌈share · N⌉-th largest value, which admits all ties at the threshold; infinity where ⌈share · N⌉ is 0.

    Examples:
        >>> admission_threshold(torch.tensor([0.1, 0.5, 0.25, 0.75]), share=0.5)
        0.5
    """
    # 0.3 * 10 is a little above 3; without the correction it would be rounded up to 4.
    count = math.ceil(share * len(reliability) - 1e-6)
    if count < 1:
        return math.inf
    return float(reliability.kthvalue(len(reliability) - count + 1).values)
