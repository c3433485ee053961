"""Masks of confidence maps under the published threshold conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from avsl.functional.localization.resize import ResizeMode, minmax, resize_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray
Convention = Literal["median", "median_aligned", "median_strict", "adaptive", "fixed_minmax", "fixed"]

CONVENTIONS: Final[tuple[Convention, ...]] = get_args(Convention)
"""The published ways to make a mask of a map, see `predict_mask`."""

_RESIZE: Final[dict[Convention, ResizeMode]] = {
    "median": "bicubic",
    "median_aligned": "bicubic_aligned",
    "median_strict": "bicubic",
    "adaptive": "bicubic",
    "fixed_minmax": "opencv_bilinear",
    "fixed": "opencv_bilinear",
}

# To find the value at a rank, every 31st pixel is sorted. The value lies within 16 of these of the rank's position,
# unless the map repeats with this step.
_SAMPLE_STEP: Final = 31
_SAMPLE_SLACK: Final = 16


def resize_as(maps: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Resize maps to the truth as a threshold convention does.

    Shape: (B, h, w) -> (B, H, W) float32.
    """
    return resize_maps(maps, size, _RESIZE[convention])


def binarize(
    maps: Tensor, convention: Convention, threshold: float | Tensor | None = None, truth: Tensor | None = None
) -> Tensor:
    """Turn maps at the truth's size into masks.

    Args:
        maps: (B, H, W) float32, already min-max normalized where the convention asks for it.
        convention: ``median`` and ``median_aligned`` take the pixels >= the upper median, ``median_strict`` those
            above it, ``adaptive`` those above the n-th highest, where n is the area of the truth (an oracle), and
            ``fixed_minmax`` and ``fixed`` those >= ``threshold``.
        threshold: of the two fixed conventions; one, or (B,).
        truth: (B, H, W), of ``adaptive``.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: the threshold or the truth that the convention needs is missing.

    Examples:
        >>> binarize(torch.tensor([[[0.1, 0.9], [0.4, 0.6]]]), "median")
        tensor([[[False,  True],
                 [False,  True]]])
    """
    if convention in ("fixed_minmax", "fixed"):
        if threshold is None:
            raise ValueError(f"threshold convention '{convention}' needs a threshold")
        cut = torch.as_tensor(threshold, dtype=maps.dtype, device=maps.device)
        return maps >= (cut[:, None, None] if cut.ndim else cut)
    pixels = maps.flatten(1)
    total = pixels.shape[1]
    if convention == "adaptive":
        if truth is None:
            raise ValueError("threshold convention 'adaptive' needs the truth")
        ranks = (total - count(truth).clamp(min=1)).tolist()
    else:
        ranks = [total // 2] * len(pixels)
    value = _values_at(pixels, ranks)[:, None, None]
    return maps >= value if convention in ("median", "median_aligned") else maps > value


def _values_at(pixels: Tensor, ranks: Sequence[int]) -> Tensor:
    """The value at each row's rank in ascending order.

    Shape: (B, P), B ranks in [0, P) -> (B,).
    """
    if pixels.device.type == "cpu":
        rows = pixels.detach().numpy()
        return torch.from_numpy(np.array([_value_at(*pair) for pair in zip(rows, ranks, strict=True)], rows.dtype))
    cuts = [row.kthvalue(rank + 1).values for row, rank in zip(pixels, ranks, strict=True)]
    return torch.stack(cuts) if cuts else pixels.new_zeros(0)


def _value_at(row: NDArray[np.float32], rank: int) -> np.float32:
    """``np.sort(row)[rank]`` of (P,) values, without sorting those far from the rank."""
    sample = np.sort(row[::_SAMPLE_STEP])
    near = rank // _SAMPLE_STEP
    low, high = sample[max(near - _SAMPLE_SLACK, 0)], sample[min(near + _SAMPLE_SLACK, len(sample) - 1)]
    below = row < low
    between = row[(row <= high) > below]
    rank_between = rank - int(np.count_nonzero(below))
    if not 0 <= rank_between < len(between):  # the sample does not stand for the row, as where it is a single column
        between, rank_between = row, rank
    found: np.float32 = np.partition(between, rank_between)[rank_between]
    return found


def predict_mask(
    maps: Tensor, truth: Tensor, convention: Convention, threshold: float | Tensor | None = None
) -> Tensor:
    """Resize maps to the truth and binarize them as a published evaluation does.

    ``median`` (EZ-VSL, FNAC), ``median_strict`` and ``adaptive`` (Senocak et al., arXiv 2407.13676) use bicubic
    resizing and min-max normalization; ``median_aligned`` (SLAVC and the multi-source code) aligns corners as well.
    ``fixed_minmax`` (SSPL, at 0.5) uses OpenCV's bilinear resizing and min-max normalization; ``fixed`` does not
    normalize, so that the mask of a silent sample can be empty.

    Args:
        maps: (B, h, w); for ``fixed`` a confidence in [0, 1].
        truth: (B, H, W), which sets the size of the masks; ``adaptive`` also uses its area.
        convention: see `binarize`.
        threshold: of the two fixed conventions.

    Returns:
        (B, H, W) bool.

    Examples:
        >>> confidence, truth = torch.tensor([[[0.2, 0.8]]]), torch.zeros(1, 1, 4)
        >>> predict_mask(confidence, truth, "fixed", threshold=0.5)
        tensor([[[False, False,  True,  True]]])
    """
    return predict_masks(maps, truth, {convention: threshold})[convention]


def predict_masks(
    maps: Tensor, truth: Tensor, thresholds: Mapping[Convention, float | Tensor | None]
) -> dict[Convention, Tensor]:
    """The masks of `predict_mask` under several conventions, which share resizing and normalization.

    Args:
        maps: (B, h, w); for ``fixed`` a confidence in [0, 1].
        truth: (B, H, W).
        thresholds: by convention; None for those without a threshold.

    Returns:
        (B, H, W) bool for each convention.
    """
    resized: dict[ResizeMode, Tensor] = {}
    stretched: dict[ResizeMode, Tensor] = {}
    masks = {}
    for convention, threshold in thresholds.items():
        mode = _RESIZE[convention]
        if mode not in resized:
            resized[mode] = resize_maps(maps, (truth.shape[-2], truth.shape[-1]), mode)
        if convention != "fixed" and mode not in stretched:
            stretched[mode] = minmax(resized[mode])
        ready = resized if convention == "fixed" else stretched
        masks[convention] = binarize(ready[mode], convention, threshold, truth)
    return masks


def count(mask: Tensor) -> Tensor:
    """The number of nonzero pixels of each mask: (B, H, W) -> (B,) int64."""
    if mask.dtype != torch.bool:
        mask = mask != 0
    # On a CPU a sum of bytes is several times faster than a sum of bools.
    return mask.contiguous().view(torch.uint8).flatten(1).sum(1, dtype=torch.int32).long()
