"""Weak and strong augmentation of whole batches, geometry on image and mask together."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from avsl.data.loading import Rows
from avsl.functional.geometry import identity, warp
from avsl.schema import StrictConfig
from avsl.types import AVBatch, SemiBatch, Views


class AugmentConfig(StrictConfig):
    """Augmentation.

    Attributes:
        flip: probability of a mirror image, in weak and strong views.
        weak_scale: a weak view is a square crop whose side is at least this share of the frame's.
        strong_scale: the same for strong views.
        jitter: strong views' brightness, contrast and saturation change by up to this share.
        noise: standard deviation of the noise added to strong views, in units of the normalised frame.
        spec_mask: strong views lose a band of up to this share of the spectrogram's frequencies and one of its time
            (SpecAugment); 0 leaves the sound alone.
    """

    flip: float = Field(0.5, ge=0, le=1)
    weak_scale: float = Field(0.9, gt=0, le=1)
    strong_scale: float = Field(0.6, gt=0, le=1)
    jitter: float = Field(0.4, ge=0, lt=1)
    noise: float = Field(0.1, ge=0)
    spec_mask: float = Field(0.15, ge=0, lt=1)


def random_geometry(batch: int, min_scale: float, flip: float, generator: torch.Generator) -> Tensor:
    """Square crops with sides uniform in [min_scale, 1], anywhere inside the frame, some mirrored: (B, 2, 3)."""
    device = generator.device

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    scale = min_scale + (1 - min_scale) * uniform(batch)
    mirror = 1 - 2 * (uniform(batch) < flip).float()
    centre = (2 * uniform(batch, 2) - 1) * (1 - scale)[:, None]
    geometry = torch.zeros(batch, 2, 3, device=device)
    geometry[:, 0, 0] = scale * mirror
    geometry[:, 1, 1] = scale
    geometry[:, :, 2] = centre
    return geometry


def jitter_colour(frames: Tensor, strength: float, noise: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of (B, 3, H, W) normalised frames and add Gaussian noise."""

    def factor() -> Tensor:
        shape = (len(frames), 1, 1, 1)
        return 1 + strength * (2 * torch.rand(shape, generator=generator, device=generator.device) - 1)

    contrast, brightness, saturation = factor(), factor() - 1, factor()
    # (x - m)·c + m + b and then g + (y - g)·s, folded into one multiplication of x and one of its channel mean g.
    mean = frames.mean((1, 2, 3), keepdim=True) * (1 - contrast) + brightness
    grey = frames.mean(1, keepdim=True)
    changed = frames * (contrast * saturation) + (grey * (contrast * (1 - saturation)) + mean)
    if noise > 0:
        changed = changed + noise * torch.randn(frames.shape, generator=generator, device=generator.device)
    return changed


def mask_spectrogram(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """SpecAugment (Park et al., Interspeech 2019): blank a frequency band and a time band of each (B, 1, F, T) row."""
    masked = features
    for axis in (2, 3):
        length = features.shape[axis]
        start, width = torch.rand(2, len(features), 1, generator=generator, device=generator.device)
        # Whole cells, so that the first is reached as often as the last.
        width = (width * (share * length + 1)).floor()
        start = (start * (length - width + 1)).floor()
        cells = torch.arange(length, device=features.device)
        band = (cells >= start) & (cells < start + width)
        shape = [len(features), 1, 1, 1]
        shape[axis] = length
        # 0 is the mean of a standardised spectrogram.
        masked = masked.masked_fill(band.view(shape), 0.0)
    return masked


def plain_view(rows: Rows) -> AVBatch:
    """The unaugmented view."""
    return AVBatch(
        frame=rows.frame,
        waveform=rows.waveform,
        features=rows.features,
        index=rows.index,
        geometry=identity(len(rows.frame), rows.frame.device),
        mask=rows.mask,
    )


def weak_view(rows: Rows, config: AugmentConfig, generator: torch.Generator) -> AVBatch:
    """Flip and slight crop; the sound is untouched. What labellers see."""
    return _look(rows, random_geometry(len(rows.frame), config.weak_scale, config.flip, generator))


def strong_view(rows: Rows, config: AugmentConfig, generator: torch.Generator) -> AVBatch:
    """Flip, crop, colour, noise, SpecAugment. What students learn from."""
    view = _look(rows, random_geometry(len(rows.frame), config.strong_scale, config.flip, generator))
    features = view.features
    if config.spec_mask > 0:
        features = {key: mask_spectrogram(f, config.spec_mask, generator) for key, f in features.items()}
    return AVBatch(
        frame=jitter_colour(view.frame, config.jitter, config.noise, generator),
        waveform=view.waveform,
        features=features,
        index=view.index,
        geometry=view.geometry,
        mask=view.mask,
    )


def _look(rows: Rows, geometry: Tensor) -> AVBatch:
    frame, mask = warp(rows.frame, geometry), rows.mask
    if mask is not None:
        mask = warp(mask.unsqueeze(1), geometry).squeeze(1)
    return AVBatch(frame, rows.waveform, rows.features, rows.index, geometry, mask)


def make_views(
    labelled: Rows,
    unlabelled: Rows | None,
    config: AugmentConfig,
    *,
    n_strong: int,
    weak: bool,
    generator: torch.Generator,
) -> SemiBatch:
    """All views of one step.

    Args:
        labelled: rows with masks.
        unlabelled: rows without, or None.
        config: strengths.
        n_strong: strong views of each row.
        weak: whether unlabelled rows get a weak view.
        generator: the only source of randomness; equal state, equal views.
    """
    return SemiBatch(
        labelled=Views(strong=tuple(strong_view(labelled, config, generator) for _ in range(n_strong))),
        unlabelled=None
        if unlabelled is None
        else Views(
            strong=tuple(strong_view(unlabelled, config, generator) for _ in range(n_strong)),
            weak=weak_view(unlabelled, config, generator) if weak else None,
        ),
    )
