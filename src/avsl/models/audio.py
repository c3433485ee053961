"""Audio front ends and encoders: waveform to one embedding."""

from __future__ import annotations

from typing import Any, cast

import torch
import torchaudio
from pydantic import Field
from torch import Tensor, nn

from avsl.models.backbone import make_backbone
from avsl.schema import StrictConfig


class LogMelConfig(StrictConfig):
    """Log-mel front end.

    Attributes:
        sample_rate: Hz.
        n_fft: window length in samples.
        hop_length: samples between frames.
        n_mels: mel bands.
    """

    sample_rate: int = Field(16000, ge=8000, le=96000)
    n_fft: int = Field(512, ge=64)
    hop_length: int = Field(160, ge=16)
    n_mels: int = Field(64, ge=8)


class LogMel(nn.Module):
    """Waveform (B, T) to a standardised log-mel spectrogram (B, 1, n_mels, frames).

    Each clip has zero mean and unit variance, so its level does not matter.
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.key = f"logmel-{config.sample_rate}-{config.n_fft}-{config.hop_length}-{config.n_mels}"
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
        )

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Always in float32: powers of quiet sounds vanish in half precision."""
        with torch.autocast(waveform.device.type, enabled=False):
            log_mel = torch.log(self.mel(waveform.float()) + 1e-6)
            std, mean = torch.std_mean(log_mel, dim=(-2, -1), keepdim=True)
            return ((log_mel - mean) / (std + 1e-5)).unsqueeze(1)


class AudioEncoderConfig(StrictConfig):
    """A timm network on spectrograms.

    Attributes:
        backbone: any timm name.
        backbone_args: passed to timm (widths and the like).
        front_end: the spectrogram it hears.
    """

    backbone: str = "resnet18"
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    front_end: LogMelConfig = LogMelConfig()


class AudioEncoder(nn.Module):
    """Spectrogram features (B, 1, F, T) to an embedding (B, dim): last stage, maximum over the grid, linear layer."""

    def __init__(self, config: AudioEncoderConfig, dim: int) -> None:
        super().__init__()
        self.front_end = LogMel(config.front_end)
        self.backbone = make_backbone(
            "model.audio",
            config.backbone,
            pretrained=False,
            in_chans=1,
            num_classes=0,
            global_pool="",
            **config.backbone_args,
        )
        self.head = nn.Linear(cast("int", self.backbone.num_features), dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the front end, (B, 1, F, T), to (B, dim), not normalised."""
        embedding: Tensor = self.head(self.backbone(features).amax((-2, -1)))
        return embedding
