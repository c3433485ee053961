"""Pseudo-labels: thresholds, agreement and consensus of labellers, and the loss on them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def confident_mask(confidence: Tensor, threshold: float) -> Tensor:
    """M = 1[P ≥ δ] (DMT), (B, h, w) in {0, 1}."""
    return (confidence >= threshold).to(confidence.dtype)


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
