"""Weak and strong augmentation of batches, with the same geometry for image and mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from avsl.data.loading import Rows
from avsl.functional.geometry import identity, warp
from avsl.functional.image import normalize
from avsl.schema import StrictConfig
from avsl.types import AVBatch, Outputs, SemiBatch, Views


class AugmentConfig(StrictConfig):
    """Augmentation.

    Attributes:
        flip: probability of a mirror image, in weak and strong views.
        weak_scale: smallest side of a weak view's square crop, as a share of the frame's side.
        strong_scale: smallest side of a strong view's crop.
        jitter: largest relative change of brightness, contrast and saturation in strong views.
        noise: standard deviation of the noise added to strong views, in units of the normalized frame.
        spec_mask: largest share of frequencies, and of time, that is masked in a strong view's spectrogram
            (SpecAugment); 0 for none.
    """

    flip: float = Field(0.5, ge=0, le=1)
    weak_scale: float = Field(0.9, gt=0, le=1)
    strong_scale: float = Field(0.6, gt=0, le=1)
    jitter: float = Field(0.4, ge=0, lt=1)
    noise: float = Field(0.1, ge=0)
    spec_mask: float = Field(0.15, ge=0, lt=1)


def random_geometry(batch: int, side: int, min_scale: float, flip: float, generator: torch.Generator) -> Tensor:
    """Geometries of random square crops of whole pixels, some mirrored, (B, 2, 3).

    Args:
        batch: number of crops.
        side: side of the frame in pixels.
        min_scale: smallest side of a crop, as a share of the frame's; sides are uniform up to the whole frame.
        flip: probability that a crop is mirrored.
        generator: source of randomness.
    """
    device = generator.device

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    least = math.ceil(min_scale * side - 1e-6)
    length = least + (uniform(batch) * (side - least + 1)).floor()
    mirror = 1 - 2 * (uniform(batch) < flip).float()
    start = (uniform(batch, 2) * (side - length + 1)[:, None]).floor()
    geometry = torch.zeros(batch, 2, 3, device=device)
    geometry[:, 0, 0] = length / side * mirror
    geometry[:, 1, 1] = length / side
    geometry[:, :, 2] = (2 * start + length[:, None]) / side - 1
    return geometry


def random_color(batch: int, strength: float, generator: torch.Generator) -> Tensor:
    """Factors of contrast, brightness and saturation, each uniform in 1 ± ``strength``: (3, B)."""
    return torch.empty(3, batch, device=generator.device).uniform_(1 - strength, 1 + strength, generator=generator)


def recolor(frames: Tensor, color: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Change contrast, brightness and saturation of (B, 3, H, W) normalized frames and add Gaussian noise.

    Args:
        frames: (B, 3, H, W) normalized.
        color: (3, B) factors.
        noise: standard deviation.
        generator: source of the noise.
    """
    contrast, brightness, saturation = color[..., None, None, None].unbind()
    # (x - m)·c + m + b - 1 and then g + (y - g)·s, folded into one multiplication of x and one of its channel mean g.
    mean = frames.mean((1, 2, 3), keepdim=True) * (1 - contrast) + (brightness - 1)
    gray = frames.mean(1, keepdim=True)
    changed = frames * (contrast * saturation) + (gray * (contrast * (1 - saturation)) + mean)
    if noise > 0:
        changed += noise * torch.randn(frames.shape, generator=generator, device=generator.device)
    return changed


def mask_spectrogram(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """SpecAugment (Park et al., Interspeech 2019): a frequency band and a time band of each sample are set to its mean.

    Args:
        features: (B, 1, F, T) spectrograms; waveforms are never masked.
        share: width of the widest band, as a share of the axis; widths are uniform up to it.
        generator: source of randomness.
    """
    masked, mean = features, features.mean((1, 2, 3), keepdim=True)
    for axis in (2, 3):
        length = features.shape[axis]
        start, width = torch.rand(2, len(features), 1, generator=generator, device=generator.device)
        # Whole cells, so that the first and the last cell are masked equally often.
        width = (width * (share * length + 1)).floor()
        start = (start * (length - width + 1)).floor()
        cells = torch.arange(length, device=features.device)
        band = (cells >= start) & (cells < start + width)
        shape = [len(features), 1, 1, 1]
        shape[axis] = length
        masked = torch.where(band.view(shape), mean, masked)
    return masked


def plain_view(rows: Rows) -> AVBatch:
    """The unaugmented view."""
    return AVBatch(
        frame=rows.frame,
        waveform=rows.waveform,
        features=rows.features,
        index=rows.index,
        geometry=identity(len(rows.pixels), rows.pixels.device),
        mask=rows.mask,
        recording=rows.recording,
        seen={key: tuple(x[:, 0].float() for x in outputs) for key, outputs in rows.seen.items()},
        heard=_in_full(rows.heard),
    )


def weak_view(rows: Rows, config: AugmentConfig, generator: torch.Generator) -> AVBatch:
    """The labelers' view: flip and slight crop, with the unchanged sound; flip alone where trunks' outputs are kept."""
    if rows.seen:
        return _kept_view(rows, config, generator)
    count, side = rows.pixels.shape[:2]
    return _look(rows, random_geometry(count, side, config.weak_scale, config.flip, generator))


def strong_view(rows: Rows, config: AugmentConfig, generator: torch.Generator) -> AVBatch:
    """The students' view: flip, crop, color, noise and SpecAugment.

    Kept outputs of image trunks leave the flip, those of audio trunks nothing; the encoders' dropout remains.
    """
    features = rows.features
    if rows.seen:
        view = _kept_view(rows, config, generator)
        return replace(view, features=_masked(features, config, generator))
    count, side = rows.pixels.shape[:2]
    geometry = random_geometry(count, side, config.strong_scale, config.flip, generator)
    features = _masked(features, config, generator)
    color = random_color(count, config.jitter, generator)
    view = _look(rows, geometry, lambda frames, part: recolor(frames, color[:, part], config.noise, generator))
    return replace(view, features=features)


def _masked(features: Mapping[str, Tensor], config: AugmentConfig, generator: torch.Generator) -> Mapping[str, Tensor]:
    if config.spec_mask == 0:
        return features
    return {key: mask_spectrogram(f, config.spec_mask, generator) for key, f in features.items()}


def _in_full(kept: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """Kept outputs, which are in half precision, in single precision."""
    return {key: tuple(x.float() for x in outputs) for key, outputs in kept.items()}


def _kept_view(rows: Rows, config: AugmentConfig, generator: torch.Generator) -> AVBatch:
    """The frame or its mirror image, as the image trunks have seen them."""
    view = plain_view(rows)
    mirrored = torch.rand(len(rows.pixels), generator=generator, device=generator.device) < config.flip
    geometry = view.geometry.clone()
    geometry[mirrored, 0, 0] = -1
    each = torch.arange(len(rows.pixels), device=mirrored.device)
    return replace(
        view,
        geometry=geometry,
        mask=None if rows.mask is None else torch.where(mirrored[:, None, None], rows.mask.flip(2), rows.mask),
        seen={key: tuple(x[each, mirrored.long()].float() for x in outputs) for key, outputs in rows.seen.items()},
    )


def _look(rows: Rows, geometry: Tensor, change: Callable[[Tensor, slice], Tensor] | None = None) -> AVBatch:
    """Crop frames and masks; ``change`` is applied to the normalized frames of a slice of rows."""
    if rows.pixels.device.type != "cpu":
        frame = warp(normalize(rows.pixels), geometry)
        frame = frame if change is None else change(frame, slice(None))
        mask = None if rows.mask is None else warp(rows.mask.unsqueeze(1), geometry).squeeze(1)
        return AVBatch(
            frame, rows.waveform, rows.features, rows.index, geometry, mask, rows.recording, heard=_in_full(rows.heard)
        )
    # A single frame fits the CPU's cache, and bytes are resized several times faster than floats are sampled.
    count, side, _, _ = rows.pixels.shape
    # NumPy allocates large pages; with small ones the first write takes as long as everything else.
    frame = torch.from_numpy(np.empty((count, 3, side, side), np.float32))
    mask = None if rows.mask is None else torch.empty_like(rows.mask)
    for k, window in enumerate(_windows(geometry, side)):
        part = slice(k, k + 1)
        seen = normalize(_zoom(rows.pixels[part].permute(0, 3, 1, 2), window).permute(0, 2, 3, 1))
        frame[part] = seen if change is None else change(seen, part)
        if mask is not None and rows.mask is not None:
            mask[part] = _zoom(rows.mask[part].unsqueeze(1), window).squeeze(1)
    return AVBatch(
        frame, rows.waveform, rows.features, rows.index, geometry, mask, rows.recording, heard=_in_full(rows.heard)
    )


def _windows(geometry: Tensor, side: int) -> list[tuple[int, int, int, bool]]:
    """Left, top and side in pixels of each crop, and whether it is mirrored."""
    length = geometry[:, 1, 1] * side
    start = ((geometry[:, :, 2] + 1) * side - length[:, None]) / 2
    numbers = torch.cat([start, length[:, None]], dim=1).round().int().tolist()
    return [(*window, mirrored) for window, mirrored in zip(numbers, (geometry[:, 0, 0] < 0).tolist(), strict=True)]


def _zoom(images: Tensor, window: tuple[int, int, int, bool]) -> Tensor:
    """Enlarge a window of (1, C, side, side) images to their size."""
    left, top, length, mirrored = window
    cut = images[:, :, top : top + length, left : left + length]
    seen = F.interpolate(cut, images.shape[-2:], mode="bilinear", align_corners=False)
    return seen.flip(3) if mirrored else seen


def make_views(
    labeled: Rows,
    unlabeled: Rows | None,
    config: AugmentConfig,
    *,
    n_strong: int,
    weak: bool,
    generator: torch.Generator,
) -> SemiBatch:
    """Make all views of one step.

    Args:
        labeled: rows with masks.
        unlabeled: rows without masks, or None.
        config: strengths of the augmentation.
        n_strong: number of strong views of each row.
        weak: whether unlabeled rows get a weak view.
        generator: the only source of randomness.
    """
    return SemiBatch(
        labeled=Views(strong=tuple(strong_view(labeled, config, generator) for _ in range(n_strong))),
        unlabeled=None
        if unlabeled is None
        else Views(
            strong=tuple(strong_view(unlabeled, config, generator) for _ in range(n_strong)),
            weak=weak_view(unlabeled, config, generator) if weak else None,
        ),
    )
