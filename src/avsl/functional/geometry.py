"""Geometries of views: where a view lies in its frame, and how labels move between views.

A geometry is a (B, 2, 3) affine matrix that maps a view's coordinates to its frame's. Both are (x, y) in [-1, 1] with
the image's edges at ±1 (``align_corners=False``), so one matrix serves images, masks and coarse maps.
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
    # In bf16, which autocast would choose, a coordinate in a frame of 128 pixels is off by a quarter of a pixel.
    with torch.autocast(source.device.type, enabled=False):
        inverse = torch.linalg.inv(source[..., :2])
        return torch.cat([inverse @ target[..., :2], inverse @ (target[..., 2:] - source[..., 2:])], dim=-1)


def warp(images: Tensor, geometry: Tensor, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
    """Sample (B, C, H, W) images at the coordinates of a geometry.

    Args:
        images: float images, masks or maps.
        geometry: (B, 2, 3).
        size: height and width of the result; by default those of the images.
        mode: ``bilinear`` or ``nearest``.

    Returns:
        (B, C, *size); 0 outside the image.

    Examples:
        >>> mirror = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0]]]]), mirror)
        tensor([[[[3., 2., 1.]]]])
    """
    height, width = size or images.shape[-2:]
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(geometry.to(images.dtype), [len(images), 1, height, width], align_corners=False)
        return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def transfer_labels(
    labels: Tensor, source: Tensor, target: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Transfer labels from the view in which they were made to another view of the same frames.

    Args:
        labels: (B, h, w) in [0, 1] on the source view's grid.
        source: geometry of the view that was labeled.
        target: geometry of the view that needs the labels.
        known: (B, h, w) in {0, 1}, the cells that have a label; by default all of them.

    Returns:
        The labels on the target view's grid, (B, h, w), and the share of each cell that the known part of the source
        view covers, (B, h, w) in [0, 1]. Cells that the labeler did not see get no label rather than silence.

    Examples:
        >>> frame = identity(1)
        >>> left_half = torch.tensor([[[0.5, 0, -0.5], [0, 1, 0]]])
        >>> labels, seen = transfer_labels(torch.tensor([[[1.0, 0.0]]]), left_half, frame)
        >>> seen
        tensor([[[1., 0.]]])
    """
    layers = torch.stack([labels, torch.ones_like(labels)] if known is None else [labels * known, known], dim=1)
    transferred, seen = warp(layers, relative(source, target)).unbind(1)
    return transferred / seen.clamp_min(1e-6), seen
