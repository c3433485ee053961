"""Resizing of confidence maps, bit-identical to the published evaluation code."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["bicubic", "bicubic_aligned", "opencv_bilinear"]


def resize_maps(maps: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resize maps to the size of the truth.

    Args:
        maps: (B, h, w), any floating type; computed in float32.
        size: (H, W); maps of this size are returned unchanged.
        mode: ``bicubic`` (EZ-VSL, FNAC) and ``bicubic_aligned`` (SLAVC) are torch's without and with aligned corners;
            ``opencv_bilinear`` (SSPL) is ``cv2.resize`` with INTER_LINEAR, bit-identical where the step is exact in
            binary (7 or 14 cells to 224) and within the last bit otherwise.

    Returns:
        (B, H, W), float32.

    Examples:
        >>> resize_maps(torch.tensor([[[0.0, 1.0]]]), (1, 4), "opencv_bilinear")
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
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
    """Whether two implementations give the same bits on this CPU, for seeded noise.

    On other devices the answer is False, because the order of summation in a product may depend on the batch size.
    """
    if device.type != "cpu":
        return False
    noise = torch.randn(16, *cells, generator=torch.Generator().manual_seed(0))
    return torch.equal(quick(noise, size), sure(noise, size))


def _torch_bicubic(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    # With the batch as channels torch computes its weights once; the bits are the same.
    return F.interpolate(maps[None], size=size, mode="bicubic", align_corners=align_corners)[0]


def _bicubic_product(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Torch's bicubic resizing as two matrix products, a few times faster on a CPU.

    The bits are torch's where a product adds its terms in order with fused multiply-adds, as CPUs do, and the step is
    exact in binary (`_agree`).
    """
    down, across = (
        _bicubic_weights(cells, pixels, maps.device) for cells, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    return down @ (maps.repeat(1, 1, 4) @ across.mT).repeat(1, 4, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensor must serve callers that compute gradients
def _bicubic_weights(cells: int, size: int, device: torch.device) -> Tensor:
    """(size, 4 · cells) float32 weights of each cell in each pixel, by tap.

    Torch adds the second tap first, then the first, the third and the fourth. At the border several taps fall on one
    cell and are added separately, so each tap has separate columns.
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
    """OpenCV's INTER_LINEAR as two matrix products.

    OpenCV fuses a + (b - a) * w, which rounds to float32 once after an exact product; float64 gives the same result.
    """
    down, across = (
        _bilinear_weights(cells, pixels, maps.device).to(dtype)
        for cells, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    rows = (torch.cat([maps, F.pad(maps.diff(dim=-1), (0, 1))], dim=-1).to(dtype) @ across.mT).float()
    return (down @ torch.cat([rows, F.pad(rows.diff(dim=-2), (0, 0, 0, 1))], dim=-2).to(dtype)).float()


def _bilinear_float32(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The same in float32, with the same bits where matrix products use fused multiply-adds (`_agree`)."""
    return _bilinear(maps, size, torch.float32)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # see `_bicubic_weights`
def _bilinear_weights(cells: int, size: int, device: torch.device) -> Tensor:
    """(size, 2 · cells) float64 weights in each pixel: of each cell, and of each cell's difference to the next."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * (cells / size) - 0.5).float().clamp(0, cells - 1)
    left = position.floor()
    taken = F.one_hot(left.long(), cells).double()
    return torch.cat([taken, taken * (position - left)[:, None]], dim=1).to(device)


def minmax(maps: Tensor) -> Tensor:
    """Normalize each map to [0, 1]; a constant map is returned unchanged, as in the published code.

    Shape: (B, H, W) -> (B, H, W).

    Examples:
        >>> minmax(torch.tensor([[[0.2, 0.4, 0.6]]]))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    spread = maps.amax(dim=(-2, -1), keepdim=True) - low
    flat = spread == 0
    return (maps - low.masked_fill(flat, 0)) / spread.masked_fill(flat, 1)
