"""Maps that need no model."""

from __future__ import annotations

import torch
from torch import Tensor


def trivial_maps(truth: Tensor) -> dict[str, Tensor]:
    """Maps that know nothing, and one that knows everything, to stand beside a model's.

    Args:
        truth: (B, H, W).

    Returns:
        Confidence maps (B, H, W) float32 by name. ``whole_image``: 1 everywhere. ``centered_disc``: the share of
        pixels that are not nearer to the center, so the median and a threshold of 0.5 cut a disc of half the area.
        ``perfect_ranking``: every true pixel above every other, and no two equal, so a threshold that must take half
        the image takes the truth first.
    """
    height, width = truth.shape[-2:]
    # Squared distances in half pixels, whole numbers, so equal distances tie exactly.
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
