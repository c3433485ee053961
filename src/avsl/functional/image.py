"""Image tensors as every network here expects them."""

from __future__ import annotations

import torch
from torch import Tensor

# ImageNet's channel statistics, which every published system and timm's weights assume.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(frames: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 with ImageNet's statistics, channels last in memory."""
    mean = torch.tensor(MEAN, device=frames.device) * 255
    std = torch.tensor(STD, device=frames.device) * 255
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)
