"""How well a confidence map matches the annotated boxes: resizing, thresholds, cIoU and its summaries.

Every step repeats the arithmetic of the published evaluation code, because a threshold at the map's own median turns
a difference in the last bit into another pixel. Masks and maps are (B, H, W); a truth is 0 or 1, or in between for
consensus maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

ResizeMode = Literal["bicubic", "bicubic_aligned", "opencv_bilinear"]
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

AREA_BUCKETS: Final = ("small", "medium", "large", "huge")
"""Names of `area_bucket`'s values."""

_AREA_SIDES: Final = (32, 96, 144)
_AREA_FRAME: Final = 224

# Which pixels are sampled to find a rank's value, one in so many; and how many sampled ones to either side of it hold
# the value between them, but for maps that repeat with this step.
_SAMPLE_STEP: Final = 31
_SAMPLE_SLACK: Final = 16


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


def resize_as(maps: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Bring maps to the size of the truth in the way that goes with a threshold convention.

    Shape: (B, h, w) -> (B, H, W) float32.
    """
    return resize_maps(maps, size, _RESIZE[convention])


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


def box_masks(boxes: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Draw the union of each image's boxes.

    Args:
        boxes: (N, 4) as x0, y0, x1, y1 in fractions of the frame, clipped to it; float64, as a corner that
            falls on a pixel's edge must not move.
        offsets: (B + 1,) integers: image i has the boxes offsets[i] to offsets[i + 1].
        size: side of the masks in pixels; corners are truncated to pixels, the end exclusive.

    Returns:
        (B, size, size) float32 of 0 and 1.

    Raises:
        ValueError: the offsets do not cover the boxes, or a corner is not a number.
    """
    counts = offsets.diff()
    if len(offsets) == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != len(boxes) or bool((counts < 0).any()):
        raise ValueError(f"box offsets must rise from 0 to the number of boxes {len(boxes)}")
    if bool(boxes.isnan().any()):
        raise ValueError("a box corner is not a number")
    corners = (boxes.double().clamp(0, 1) * size).long()
    image = torch.repeat_interleave(counts)
    slot = torch.arange(len(boxes), device=boxes.device) - offsets[image]
    most = int(counts.max()) if len(counts) else 0
    padded = corners.new_zeros(len(counts), most, 4)
    padded[image, slot] = corners
    return (_covering_boxes(padded, size) > 0).float()


def consensus_maps(boxes_256: Tensor, size: int) -> Tensor:
    """Flickr-SoundNet's truth: min(1, Σ boxes / 2), so a pixel counts fully where two annotators agree.

    Args:
        boxes_256: (B, A, 4) as x0, y0, x1, y1 in units of a 256-pixel frame; rows of zeros are no box.
        size: side of the maps in pixels.

    Returns:
        (B, size, size) float32 of 0, 0.5 and 1.
    """
    corners = (boxes_256.double().clamp(0, 256) * size / 256).long()
    return (_covering_boxes(corners, size) / 2).clamp(max=1)


def _covering_boxes(corners: Tensor, size: int) -> Tensor:
    """How many of the (B, A, 4) pixel boxes cover each pixel, (B, size, size) float32."""
    pixel = torch.arange(size, device=corners.device)
    start, stop = corners[..., :2, None], corners[..., 2:, None]
    inside = ((pixel >= start) & (pixel < stop)).float()
    columns, rows = inside.unbind(dim=2)
    return rows.mT @ columns


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


def ciou(pred: Tensor, truth: Tensor) -> Tensor:
    """Consensus intersection over union: Σ pred·truth / (Σ truth + Σ pred·[truth = 0]).

    With one annotation it is the plain IoU (Senocak et al., CVPR 2018, arXiv 1803.03849).

    Args:
        pred: (B, H, W) bool.
        truth: (B, H, W), bool, or floating in [0, 1].

    Returns:
        (B,) float64; NaN where the truth is empty, as the published protocols leave such rows out.
    """
    if truth.dtype == torch.bool:
        area, hit = count(truth).double(), count(truth & pred).double()
        outside = count(pred).double() - hit
    else:
        # Sums of 0, 0.5 and 1 are exact in float32 up to 2^23 pixels.
        area = truth.sum((-2, -1)).double()
        hit = (truth * pred).sum((-2, -1)).double()
        outside = count(pred & (truth == 0)).double()
    return (hit / (area + outside)).masked_fill(area == 0, torch.nan)


def count(mask: Tensor) -> Tensor:
    """How many pixels of each mask are not 0: (B, H, W) -> (B,) int64."""
    if mask.dtype != torch.bool:
        mask = mask != 0
    # As bytes: several times faster on a CPU than a sum, or any(), of bools.
    return mask.contiguous().view(torch.uint8).flatten(1).sum(1, dtype=torch.int32).long()


def ciou_by_threshold(maps: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
    """What `ciou` gives under ``fixed`` at each of T thresholds, in one pass over the pixels.

    Args:
        maps: (B, h, w) confidence in [0, 1].
        truth: (B, H, W) in [0, 1].
        thresholds: (T,) rising, on the device of the maps.

    Returns:
        (B, T) float64; NaN where the truth is empty.
    """
    resized = resize_as(maps, (truth.shape[-2], truth.shape[-1]), "fixed")
    hit, outside = (sums_above(resized, weight, thresholds) for weight in (truth, truth == 0))
    area = hit[:, :1]
    overlap: Tensor = hit[:, 1:] / (area + outside[:, 1:])
    return overlap.masked_fill(area == 0, torch.nan)


def sums_above(values: Tensor, weight: Tensor, thresholds: Tensor) -> Tensor:
    """The weight of the pixels that reach each of T thresholds, in one pass over the pixels.

    Args:
        values: (B, H, W), on which the thresholds are.
        weight: (B, H, W); whole numbers and halves add up exactly.
        thresholds: (T,) rising, on the device of the values.

    Returns:
        (B, 1 + T) float64: the weight of all pixels, then of those with values >= each threshold.
    """
    rows, levels = len(values), len(thresholds) + 1
    # A pixel at level k reaches the k lowest thresholds.
    level = torch.bucketize(values, thresholds.to(values.dtype), right=True)
    slot = (level + torch.arange(rows, device=level.device)[:, None, None] * levels).flatten()
    sums = torch.zeros(rows * levels, dtype=torch.float64, device=slot.device)
    sums.index_add_(0, slot, weight.flatten().double())
    return sums.view(rows, levels).flip(1).cumsum(1).flip(1)


def success_rate(scores: Tensor, at: float = 0.5, *, strict: bool = False) -> Tensor:
    """CIoU@``at``: the share of samples whose cIoU is at least ``at`` (AP50 in EZ-VSL's code); () float64.

    With ``strict`` the share above ``at``: the precision of SLAVC's and of the multi-source code.

    Raises:
        ValueError: there is no sample.
    """
    if scores.numel() == 0:
        raise ValueError("a success rate needs at least one sample")
    return (scores > at if strict else scores >= at).double().mean()


def auc(scores: Tensor) -> Tensor:
    """Area under the success rate over the 21 thresholds 0, 0.05, …, 1 by the trapezoid rule; () float64.

    Raises:
        ValueError: there is no sample.
    """
    thresholds = [0.05 * step for step in range(21)]
    rates = torch.stack([success_rate(scores, at) for at in thresholds])
    return torch.trapezoid(rates, torch.tensor(thresholds, dtype=rates.dtype, device=rates.device))


def summarize(scores: Tensor) -> dict[str, Tensor]:
    """CIoU@0.5 (``ciou``), CIoU@0.7 (``ciou_70``), ``auc`` and ``mean_ciou`` of (B,) cIoU; each () float64.

    Raises:
        ValueError: there is no sample.
    """
    return {
        "ciou": success_rate(scores),
        "ciou_70": success_rate(scores, 0.7),
        "auc": auc(scores),
        "mean_ciou": scores.mean(),
    }


def interactive_iou(scores: Tensor, group: Tensor) -> Tensor:
    """The worst cIoU of each group of rows that share a frame and differ in sound.

    A model that ignores the sound cannot have all of a group right (Senocak et al., arXiv 2407.13676): the success
    rate of these is IIoU, their AUC is IAUC.

    Args:
        scores: (B,) cIoU.
        group: (B,) integer, equal within a group.

    Returns:
        (G,) in the order of the rising group ids.
    """
    ids, row = torch.unique(group, return_inverse=True)
    return scores.new_full((len(ids),), torch.inf).scatter_reduce(0, row, scores, "amin")


def area_bucket(truth: Tensor) -> Tensor:
    """The size class of each truth by its share of the frame, as SLAVC draws it: 32², 96², 144² of 224² pixels.

    Shape: (B, H, W) -> (B,) int64, an index into `AREA_BUCKETS`; the lower bounds belong to the class above.
    """
    area = count(truth) * _AREA_FRAME**2
    pixels = truth.shape[-2] * truth.shape[-1]
    bounds = torch.tensor([side**2 * pixels for side in _AREA_SIDES], device=truth.device)
    return torch.bucketize(area, bounds, right=True)


def fires(maps: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Whether any pixel of the resized confidence reaches the threshold, as ``fixed`` would predict it.

    Args:
        maps: (B, h, w) confidence in [0, 1].
        size: (H, W) of the frame.
        threshold: in [0, 1].

    Returns:
        (B,) bool.
    """
    return count(binarize(resize_maps(maps, size, "opencv_bilinear"), "fixed", threshold)) > 0


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
