"""Where a view lies in its frame, and how labels move from one view to another.

A geometry is a (B, 2, 3) affine matrix that maps a view's coordinates to its frame's, both (x, y) in [-1, 1] with pixel
edges (not centers) at ±1, so one matrix serves images, masks and coarse maps alike (``align_corners=False``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def identity(batch: int, device: torch.device | None = None) -> Tensor:
    """The geometry of unaugmented frames, (batch, 2, 3)."""
    return torch.eye(2, 3, device=device).expand(batch, 2, 3)


def relative(source: Tensor, target: Tensor) -> Tensor:
    """The map from the target view's coordinates to the source view's, (B, 2, 3)."""
    # In bf16, which autocast would choose, a coordinate is off by a quarter of a pixel of a 128 px frame.
    with torch.autocast(source.device.type, enabled=False):
        inverse = torch.linalg.inv(source[..., :2])
        return torch.cat([inverse @ target[..., :2], inverse @ (target[..., 2:] - source[..., 2:])], dim=-1)


def warp(images: Tensor, geometry: Tensor, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
    """Look at (B, C, H, W) images through a geometry.

    Args:
        images: float images, masks or maps.
        geometry: (B, 2, 3).
        size: height and width of the result; the images' own by default.
        mode: ``bilinear`` or ``nearest``.

    Returns:
        (B, C, *size); what lies outside the image is 0.
    """
    height, width = size or images.shape[-2:]
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(geometry.to(images.dtype), [len(images), 1, height, width], align_corners=False)
        return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def transfer_labels(
    labels: Tensor, source: Tensor, target: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Carry (B, h, w) labels made in one view to another view of the same frames.

    Args:
        labels: values in [0, 1] on the source view's grid.
        source: geometry in which the labels were made.
        target: geometry in which they are needed.
        known: (B, h, w) in {0, 1}, which of the labels there are; all of them by default.

    Returns:
        the labels on the target view's grid and, (B, h, w) in [0, 1], how far each cell lies inside what is known of
        the source view: what the labeler did not see must not be taught as silence.
    """
    layers = torch.stack([labels, torch.ones_like(labels)] if known is None else [labels * known, known], dim=1)
    carried, seen = warp(layers, relative(source, target)).unbind(1)
    return carried / seen.clamp_min(1e-6), seen
