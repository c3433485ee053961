"""Image tensors as every network here expects them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# ImageNet's channel statistics, which every published system and timm's weights assume.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(frames: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 with ImageNet's statistics."""
    # Channels first before the arithmetic: over a last axis of three it runs five times slower.
    planes = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    mean, std = _levels(frames.device)
    return planes.sub_(mean).div_(std)


@cache
def _levels(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and standard deviation of a byte."""
    mean, std = (255 * torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return mean, std
