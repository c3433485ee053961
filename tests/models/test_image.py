"""Image encoders: levels of the frames."""

from __future__ import annotations

import torch

from avsl.functional.image import normalize
from avsl.models import Localizer, LocalizerConfig, LocalizerEnsemble
from avsl.models.image import ImageEncoder, ImageEncoderConfig


@torch.no_grad()
def test_each_encoder_sees_frames_with_its_own_mean_and_std(tiny: LocalizerConfig) -> None:
    """From the frames that all encoders share; training, evaluation and serving pass through the same forward."""
    levels = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.2, 0.25)}
    encoder = ImageEncoder(tiny.image.model_copy(update=levels), 8).eval()
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(normalize(frames))
    mean, std = (torch.tensor(levels[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(seen[0], (frames.permute(0, 3, 1, 2) / 255 - mean) / std)


@torch.no_grad()
def test_imagenets_levels_leave_frames_as_they_are(tiny: LocalizerConfig) -> None:
    """To the bit, and an export's members keep other ones."""
    torch.manual_seed(0)
    model = LocalizerEnsemble([Localizer(tiny)]).eval()
    frames = torch.rand(1, 3, 32, 32)
    seen: list[torch.Tensor] = []
    encoder = ImageEncoder(tiny.image, 8).eval()
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(frames)
    assert torch.equal(seen[0], frames)
    other = ImageEncoderConfig.read(model.configs[0].image.model_dump() | {"mean": (0.5, 0.5, 0.5)}, "model.image")
    assert ImageEncoderConfig.read(other.model_dump(mode="json"), "model.image") == other
