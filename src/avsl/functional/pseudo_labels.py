"""Pseudo-labels: thresholds, sharpening, averages, agreement and consensus of labelers, and the loss on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def confident_mask(confidence: Tensor, threshold: float) -> Tensor:
    """M = 1[P ≥ δ] (DMT), (B, h, w) in {0, 1}."""
    return (confidence >= threshold).to(confidence.dtype)


def sharpen(confidence: Tensor, temperature: float) -> Tensor:
    """Q = P^{1/T} / (P^{1/T} + (1 − P)^{1/T}) (XPL, arXiv 2403.03095): soft labels nearer to 0 and 1.

    Computed as σ(logit(P) / T), the same value, whose powers neither underflow at small T nor divide 0 by 0.

    Args:
        confidence: P in [0, 1], any shape.
        temperature: T > 0; 1 leaves P as it is, towards 0 every label becomes hard.
    """
    return torch.sigmoid(torch.logit(confidence) / temperature)


def average_labels(previous: Tensor, current: Tensor, seen: Tensor, momentum: float) -> Tensor:
    """PL-EMA (XPL, arXiv 2403.03095): Ŷ ← m Ŷ + (1 − m) Q where Q is seen, Ŷ = Q on a cell's first visit.

    Args:
        previous: Ŷ in [0, 1]; NaN on cells that have never been seen.
        current: Q in [0, 1], of the same shape.
        seen: bool, broadcast to that shape; the others keep what they have.
        momentum: m in [0, 1); 0 has no memory.
    """
    averaged = torch.where(previous.isnan(), current, momentum * previous + (1 - momentum) * current)
    return torch.where(seen, averaged, previous)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of (B, h, w) binary masks, (B,) in [0, 1]; 0 where both are empty."""
    intersection = (first * second).sum((-2, -1))
    union = (first + second).clamp_max(1).sum((-2, -1))
    return intersection / union.clamp_min(1)


def not_empty(mask: Tensor) -> Tensor:
    """(B,) bool: whether anything is set in a (B, h, w) mask."""
    return mask.amax((-2, -1)) > 0


def consensus(first: Tensor, second: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """DMT's noise filter: accept a clip iff IoU(M_A, M_B) ≥ τ and the masks overlap (arXiv 2403.03145, section 3).

    Disjoint masks are refused even at τ = 0: their intersection would teach silence.

    Returns:
        accepted (B,) bool and the agreement IoU(M_A, M_B), (B,).
    """
    agreement = mask_iou(first, second)
    return (agreement >= threshold) & not_empty(first * second), agreement


def pixel_bce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """H: the mean pixel-wise binary cross-entropy of each row.

    Args:
        logits: (B, h, w) confidence before the sigmoid.
        target: (B, h, w) in [0, 1].
        weight: (B, h, w) in [0, 1], how much each cell counts; all of them by default.

    Returns:
        (B,); 0 for a row whose weights are all 0.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if weight is None:
        return loss.mean((-2, -1))
    return (loss * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-6)


def to_grid(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a (B, H, W) mask to a coarser (h, w) grid: each cell holds the share of it that is covered."""
    return F.adaptive_avg_pool2d(mask.unsqueeze(1), size).squeeze(1)


def to_finest_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Bring (B, h, w) maps, each on its own grid, to the one with the most cells."""
    size = max(((m.shape[-2], m.shape[-1]) for m in maps), key=math.prod)
    return [
        m if m.shape[-2:] == size else F.interpolate(m.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
        for m in maps
    ]
