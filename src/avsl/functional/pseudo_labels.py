"""Pseudo-labels: thresholding, sharpening, averaging, agreement of two labelers, and the loss on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def confident_mask(confidence: Tensor, threshold: float) -> Tensor:
    """DMT's hard pseudo-label M = 1[P ≥ δ], (B, h, w) in {0, 1}."""
    return (confidence >= threshold).to(confidence.dtype)


def sharpen(confidence: Tensor, temperature: float) -> Tensor:
    """Sharpen soft labels (XPL, arXiv 2403.03095): Q = P^{1/T} / (P^{1/T} + (1 − P)^{1/T}).

    The equal form σ(logit(P) / T) is computed, because the powers underflow at small T.

    Args:
        confidence: P in [0, 1], any shape.
        temperature: T > 0; 1 leaves P unchanged, and labels become hard as T approaches 0.

    Examples:
        >>> sharpen(torch.tensor([0.0, 0.25, 0.5, 1.0]), temperature=0.5)
        tensor([0.0000, 0.1000, 0.5000, 1.0000])
    """
    return torch.sigmoid(torch.logit(confidence) / temperature)


def average_labels(previous: Tensor, current: Tensor, seen: Tensor, momentum: float) -> Tensor:
    """PL-EMA (XPL, arXiv 2403.03095): Ŷ ← m Ŷ + (1 − m) Q on seen cells, and Ŷ ← Q on a cell's first visit.

    Args:
        previous: Ŷ in [0, 1]; NaN on cells that have never been seen.
        current: Q in [0, 1], of the same shape.
        seen: bool, broadcast to that shape; cells that are not seen keep their value.
        momentum: m in [0, 1); 0 has no memory.

    Examples:
        >>> previous, current = torch.tensor([0.0, torch.nan, 0.5]), torch.tensor([1.0, 1.0, 1.0])
        >>> average_labels(previous, current, torch.tensor([True, True, False]), momentum=0.75)
        tensor([0.2500, 1.0000, 0.5000])
    """
    averaged = torch.where(previous.isnan(), current, momentum * previous + (1 - momentum) * current)
    return torch.where(seen, averaged, previous)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of (B, h, w) binary masks, (B,) in [0, 1]; 0 where both are empty."""
    intersection = (first * second).sum((-2, -1))
    union = (first + second).clamp_max(1).sum((-2, -1))
    return intersection / union.clamp_min(1)


def not_empty(mask: Tensor) -> Tensor:
    """Whether each (B, h, w) mask has any foreground, (B,) bool."""
    return mask.amax((-2, -1)) > 0


def consensus(first: Tensor, second: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """DMT's consensus filter: accept a clip iff IoU(M_A, M_B) ≥ τ and the masks overlap (arXiv 2403.03145, section 3).

    Disjoint masks are refused even at τ = 0, because their empty intersection would be a label of silence.

    Returns:
        Whether each clip is accepted, (B,) bool, and the agreement IoU(M_A, M_B), (B,).

    Examples:
        >>> first, second = torch.tensor([[[1.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
        >>> consensus(first, second, threshold=0.5)
        (tensor([True]), tensor([0.5000]))
    """
    agreement = mask_iou(first, second)
    return (agreement >= threshold) & not_empty(first * second), agreement


def pixel_bce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """H: the mean pixel-wise binary cross-entropy of each sample.

    Args:
        logits: (B, h, w) confidence before the sigmoid.
        target: (B, h, w) in [0, 1].
        weight: (B, h, w) in [0, 1] of each cell; by default 1.

    Returns:
        (B,); 0 for a sample whose weights are all 0.

    Examples:
        >>> pixel_bce(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
        tensor([0.6931])
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if weight is None:
        return loss.mean((-2, -1))
    return (loss * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-6)


def to_grid(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce a (B, H, W) mask to a coarser (h, w) grid; each cell holds the share of it that the mask covers.

    Examples:
        >>> to_grid(torch.tensor([[[1.0, 0.0, 1.0, 1.0]]]), (1, 2))
        tensor([[[0.5000, 1.0000]]])
    """
    return F.adaptive_avg_pool2d(mask.unsqueeze(1), size).squeeze(1)


def to_finest_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Resize (B, h, w) maps of several grids to the grid with the most cells."""
    size = max(((m.shape[-2], m.shape[-1]) for m in maps), key=math.prod)
    return [
        m if m.shape[-2:] == size else F.interpolate(m.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
        for m in maps
    ]
