"""Audio front ends: features of waveforms for audio encoders. They have no weights, so features can be cached."""

from __future__ import annotations

import math

import torch
import torchaudio
from pydantic import Field
from torch import Tensor, nn

from avsl.schema import StrictConfig


class LogMelConfig(StrictConfig):
    """Log-mel spectrogram.

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
    """Waveform (B, T) to a standardized log-mel spectrogram (B, 1, n_mels, frames).

    Each clip is standardized to zero mean and unit variance, which removes its level.
    """

    cacheable = True

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
        """Compute features in float32, because the power of quiet sounds underflows in half precision."""
        with torch.autocast(waveform.device.type, enabled=False):
            log_mel = torch.log(self.mel(waveform.float()) + 1e-6)
            std, mean = torch.std_mean(log_mel, dim=(-2, -1), keepdim=True)
            return ((log_mel - mean) / (std + 1e-5)).unsqueeze(1)


class LogSpectrogramConfig(StrictConfig):
    """The published log-spectrogram of EZ-VSL, SLAVC and FNAC.

    Attributes:
        sample_rate: Hz.
        n_fft: window length in samples.
        hop_length: samples between frames.
        scale: divisor of the logarithm (12 in EZ-VSL, SLAVC and FNAC).
    """

    sample_rate: int = Field(16000, ge=8000, le=96000)
    n_fft: int = Field(512, ge=64)
    hop_length: int = Field(238, ge=16)
    scale: float = Field(12.0, gt=0)


class LogSpectrogram(nn.Module):
    """Waveform (B, T) to the log of its power spectral density, (B, 1, n_fft / 2 + 1, frames).

    Equals SciPy's ``spectrogram`` (Tukey window 0.25, frames without their mean, one-sided density, no padding),
    followed by log(x + 1e-7) / scale.
    """

    cacheable = True
    window: Tensor

    def __init__(self, config: LogSpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        self.key = f"logspec-{config.sample_rate}-{config.n_fft}-{config.hop_length}-{config.scale:g}"
        self.register_buffer("window", _tukey(config.n_fft, 0.25), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features in float32, because the power of quiet sounds underflows in half precision."""
        config = self.config
        with torch.autocast(waveform.device.type, enabled=False):
            frames = waveform.float().unfold(-1, config.n_fft, config.hop_length)
            frames = (frames - frames.mean(-1, keepdim=True)) * self.window
            power = torch.fft.rfft(frames).abs().square() / (config.sample_rate * self.window.square().sum())
            power[..., 1:-1] *= 2
            return (torch.log(power + 1e-7) / config.scale).transpose(-2, -1).unsqueeze(1)


def _tukey(length: int, taper: float) -> Tensor:
    """The periodic Tukey window; ``taper`` is the share of its cosine flanks."""
    position = torch.arange(length, dtype=torch.float64)
    flank = taper * length / 2
    rise = torch.clamp(torch.minimum(position, length - position) / flank, max=1)
    return (0.5 * (1 - torch.cos(math.pi * rise))).float()
