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
"""How a map becomes a mask, see `predict_mask`."""

_RESIZE: Final[dict[Convention, ResizeMode]] = {
    "median": "bicubic",
    "median_aligned": "bicubic_aligned",
    "median_strict": "bicubic",
    "adaptive": "bicubic",
    "fixed_minmax": "opencv_bilinear",
    "fixed": "opencv_bilinear",
}

# Which pixels are sampled to find a rank's value, one in so many; and how many sampled ones to either side of it hold
# the value between them, but for maps that repeat with this step.
_SAMPLE_STEP: Final = 31
_SAMPLE_SLACK: Final = 16


def resize_as(maps: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Bring maps to the size of the truth in the way that goes with a threshold convention.

    Shape: (B, h, w) -> (B, H, W) float32.
    """
    return resize_maps(maps, size, _RESIZE[convention])


def binarize(
    maps: Tensor, convention: Convention, threshold: float | None = None, truth: Tensor | None = None
) -> Tensor:
    """Turn maps at the truth's size into masks.

    Args:
        maps: (B, H, W) float32, already min-max normalized where the convention asks for it.
        convention: ``median`` and ``median_aligned``: pixels >= the upper median pixel; ``median_strict``: > it;
            ``adaptive``: > the n-th highest pixel, where the truth has n pixels (an oracle: it is told the true area);
            ``fixed_minmax`` and ``fixed``: >= threshold.
        threshold: for the fixed conventions alone.
        truth: (B, H, W), for ``adaptive`` alone.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: the threshold or the truth that the convention needs is missing.
    """
    if convention in ("fixed_minmax", "fixed"):
        if threshold is None:
            raise ValueError(f"threshold convention '{convention}' needs a threshold")
        return maps >= torch.tensor(threshold, dtype=maps.dtype, device=maps.device)
    pixels = maps.flatten(1)
    total = pixels.shape[1]
    if convention == "adaptive":
        if truth is None:
            raise ValueError("threshold convention 'adaptive' needs the truth")
        ranks = (total - count(truth).clamp(min=1)).tolist()
    else:
        ranks = [total // 2] * len(pixels)
    cut = _values_at(pixels, ranks)[:, None, None]
    return maps >= cut if convention in ("median", "median_aligned") else maps > cut


def _values_at(pixels: Tensor, ranks: Sequence[int]) -> Tensor:
    """The value of each row that so many of its values come before when they are sorted.

    Shape: (B, P), B ranks in [0, P) -> (B,).
    """
    if pixels.device.type == "cpu":
        rows = pixels.detach().numpy()
        return torch.from_numpy(np.array([_value_at(*pair) for pair in zip(rows, ranks, strict=True)], rows.dtype))
    cuts = [row.kthvalue(rank + 1).values for row, rank in zip(pixels, ranks, strict=True)]
    return torch.stack(cuts) if cuts else pixels.new_zeros(0)


def _value_at(row: NDArray[np.float32], rank: int) -> np.float32:
    """``np.sort(row)[rank]``, where of the (P,) values only those near to it are looked at more than once."""
    sample = np.sort(row[::_SAMPLE_STEP])
    near = rank // _SAMPLE_STEP
    low, high = sample[max(near - _SAMPLE_SLACK, 0)], sample[min(near + _SAMPLE_SLACK, len(sample) - 1)]
    below = row < low
    between = row[(row <= high) > below]
    rank_between = rank - int(np.count_nonzero(below))
    if not 0 <= rank_between < len(between):  # the sample misled, as where it is a single column
        between, rank_between = row, rank
    found: np.float32 = np.partition(between, rank_between)[rank_between]
    return found


def predict_mask(maps: Tensor, truth: Tensor, convention: Convention, threshold: float | None = None) -> Tensor:
    """Resize maps to the truth and binarize them as a published evaluation does.

    ``median`` (EZ-VSL, FNAC), ``median_strict`` and ``adaptive`` (Senocak et al., arXiv 2407.13676): bicubic,
    min-max. ``median_aligned`` (SLAVC and the multi-source code after it): the same with corners aligned.
    ``fixed_minmax`` (SSPL, at 0.5): OpenCV bilinear, min-max. ``fixed``: OpenCV bilinear on the confidence
    itself, never min-max, so that an image without a source can stay empty.

    Args:
        maps: (B, h, w); for ``fixed`` a confidence in [0, 1].
        truth: (B, H, W); its size is the prediction's, its area is read by ``adaptive`` alone.
        convention: see `binarize`.
        threshold: for the fixed conventions alone.

    Returns:
        (B, H, W) bool.
    """
    return predict_masks(maps, truth, {convention: threshold})[convention]


def predict_masks(
    maps: Tensor, truth: Tensor, thresholds: Mapping[Convention, float | None]
) -> dict[Convention, Tensor]:
    """What `predict_mask` gives under several conventions, with no resizing or stretching done twice.

    Args:
        maps: (B, h, w); for ``fixed`` a confidence in [0, 1].
        truth: (B, H, W).
        thresholds: a threshold for each fixed convention, None for each other.

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
    """How many pixels of each mask are not 0: (B, H, W) -> (B,) int64."""
    if mask.dtype != torch.bool:
        mask = mask != 0
    # As bytes: several times faster on a CPU than a sum, or any(), of bools.
    return mask.contiguous().view(torch.uint8).flatten(1).sum(1, dtype=torch.int32).long()
