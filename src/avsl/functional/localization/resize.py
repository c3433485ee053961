"""Resizing of confidence maps, to the bits of the published evaluation code."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["bicubic", "bicubic_aligned", "opencv_bilinear"]


def resize_maps(maps: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Bring maps to the size of the truth.

    Args:
        maps: (B, h, w), any floating type; computed in float32.
        size: (H, W); maps that have it already come back unchanged.
        mode: ``bicubic`` and ``bicubic_aligned`` are torch's without and with aligned corners (EZ-VSL, FNAC; SLAVC);
            ``opencv_bilinear`` is ``cv2.resize`` with INTER_LINEAR (SSPL), to the bit for steps exact in binary
            (7 or 14 cells to 224) and to the last bit otherwise.

    Returns:
        (B, H, W), float32.
    """
    maps = maps.float()
    if maps.shape[-2:] == torch.Size(size):
        return maps
    with torch.autocast(maps.device.type, enabled=False):
        if mode == "bicubic_aligned":
            return _torch_bicubic(maps, size, align_corners=True)
        quick, sure = (
            (_bilinear_float32, _bilinear) if mode == "opencv_bilinear" else (_bicubic_product, _torch_bicubic)
        )
        return (quick if _agree(quick, sure, maps.shape[-2:], size, maps.device) else sure)(maps, size)


_Resize = Callable[[Tensor, tuple[int, int]], Tensor]


@lru_cache(maxsize=64)
def _agree(quick: _Resize, sure: _Resize, cells: tuple[int, ...], size: tuple[int, int], device: torch.device) -> bool:
    """Whether two ways of resizing give the same bits on this CPU, found out on seeded noise of both signs.

    Never on another device, where a product's order of summation may hang on the number of rows.
    """
    if device.type != "cpu":
        return False
    noise = torch.randn(16, *cells, generator=torch.Generator().manual_seed(0))
    return torch.equal(quick(noise, size), sure(noise, size))


def _torch_bicubic(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    # The batch goes in as channels: the same bits, with the weights computed once.
    return F.interpolate(maps[None], size=size, mode="bicubic", align_corners=align_corners)[0]


def _bicubic_product(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The bicubic of torch as a matrix product on each side: a few times faster on a CPU.

    It has torch's bits where a product adds its terms one after the other with fused multiply-adds, as CPUs do, and
    the steps are exact in binary (`_agree`).
    """
    down, across = (
        _bicubic_weights(cells, pixels, maps.device) for cells, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    return down @ (maps.repeat(1, 1, 4) @ across.mT).repeat(1, 4, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is cached must serve callers that take gradients too
def _bicubic_weights(cells: int, size: int, device: torch.device) -> Tensor:
    """(size, 4 · cells) float32: what each pixel takes of each cell, by tap in torch's order of summation.

    That order is the second tap, the first, the third, the fourth. At the border several taps fall on one cell and
    are added one by one, so each tap has columns of its own.
    """
    position = (torch.arange(size) + 0.5) * (cells / size) - 0.5
    left = position.floor()
    taps = []
    for tap in (0, -1, 1, 2):
        cell = (left.long() + tap).clamp(0, cells - 1)
        taps.append(F.one_hot(cell, cells) * _cubic((position - left - tap).abs())[:, None])
    return torch.cat(taps, dim=1).to(device)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with torch's A = -0.75, at distances in [0, 2]."""
    a = -0.75
    return torch.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)


def _bilinear(maps: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """OpenCV's INTER_LINEAR as a matrix product on each side.

    OpenCV fuses a + (b - a) * w: one rounding to float32 after an exact product, which float64 gives everywhere.
    """
    down, across = (
        _bilinear_weights(cells, pixels, maps.device).to(dtype)
        for cells, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    rows = (torch.cat([maps, F.pad(maps.diff(dim=-1), (0, 1))], dim=-1).to(dtype) @ across.mT).float()
    return (down @ torch.cat([rows, F.pad(rows.diff(dim=-2), (0, 0, 0, 1))], dim=-2).to(dtype)).float()


def _bilinear_float32(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The same in float32, which is as good where products fuse as OpenCV does (`_agree`)."""
    return _bilinear(maps, size, torch.float32)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # as for the bicubic weights
def _bilinear_weights(cells: int, size: int, device: torch.device) -> Tensor:
    """(size, 2 · cells) float64: what each pixel takes of each cell, and of its step to the next cell."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * (cells / size) - 0.5).float().clamp(0, cells - 1)
    left = position.floor()
    taken = F.one_hot(left.long(), cells).double()
    return torch.cat([taken, taken * (position - left)[:, None]], dim=1).to(device)


def minmax(maps: Tensor) -> Tensor:
    """Stretch each map to [0, 1]; a constant map stays as it is, as in the published code.

    Shape: (B, H, W) -> (B, H, W).
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    spread = maps.amax(dim=(-2, -1), keepdim=True) - low
    flat = spread == 0
    return (maps - low.masked_fill(flat, 0)) / spread.masked_fill(flat, 1)
