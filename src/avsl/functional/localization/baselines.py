"""Baseline maps, which need no model."""

from __future__ import annotations

import torch
from torch import Tensor


def trivial_maps(truth: Tensor) -> dict[str, Tensor]:
    """Two maps that do not depend on the input, and the best possible ranking of pixels.

    Args:
        truth: (B, H, W).

    Returns:
        Confidence maps (B, H, W) float32 by name. ``whole_image`` is 1 everywhere. ``centered_disc`` is the share of
        pixels that are at least as far from the center, so that both the median and a threshold of 0.5 cut a disc of
        half the area. ``perfect_ranking`` ranks every true pixel above all others, without ties.

    Examples:
        >>> trivial_maps(torch.tensor([[[0, 1, 0, 0]]]))["centered_disc"]
        tensor([[[0.5000, 1.0000, 1.0000, 0.5000]]])
    """
    height, width = truth.shape[-2:]
    # Squared distances in half pixels are whole numbers, so equal distances tie exactly.
    y = 2 * torch.arange(height, device=truth.device) - (height - 1)
    x = 2 * torch.arange(width, device=truth.device) - (width - 1)
    distance = (y[:, None] ** 2 + x**2).flatten()
    pixels = height * width
    nearer = torch.searchsorted(distance.sort().values, distance)
    disc = (1 - nearer / pixels).view(height, width)
    order = torch.arange(pixels, device=truth.device).view(height, width) / (pixels - 1)
    present = (truth != 0).float()
    return {
        "whole_image": torch.ones_like(present),
        "centered_disc": disc.expand_as(present),
        "perfect_ranking": 0.98 * present + 0.02 * order,
    }
