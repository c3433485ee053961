"""The raw-waveform encoder: convolutions on the samples."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.schema import StrictConfig
from avsl.types import FrontEnd, Outputs

# SoundNet's layers: kernel size (stride 2, padded by half) and size of the max pooling after it.
_LAYERS = ((64, 8), (32, 8), (16, 1), (8, 1), (4, 4), (4, 1), (4, 1))


class WaveformEncoderConfig(StrictConfig):
    """Strided convolutions on the waveform.

    Attributes:
        kind: name of the audio encoder.
        channels: widths of the first layers of SoundNet, at most seven.
    """

    kind: Literal["waveform"] = "waveform"
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (16, 32, 64, 128, 256, 512, 1024), min_length=1, max_length=len(_LAYERS)
    )


class RawWaveform:
    """A front end that returns the waveform, (B, T) as (B, 1, T); it need not be cached."""

    key = "waveform"
    cacheable = False

    def __call__(self, waveform: Tensor) -> Tensor:
        """The waveform."""
        return waveform.unsqueeze(1)


class WaveformEncoder(AudioEncoder):
    """Waveform (B, 1, T) to an embedding: SoundNet's layers, maximum over time, linear layer.

    Source: SoundNet (Aytar et al., NeurIPS 2016, arXiv 1610.09001, table 1), without its eighth layer, which has the
    classes of its teachers. Deviations: sounds at 16 kHz, not 22.05; each clip is standardized to zero mean and unit
    variance; pooling keeps partial windows, so that sounds can have any length.
    """

    TRUNK = ("layers",)

    def __init__(self, config: WaveformEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end: FrontEnd = RawWaveform()
        self.code_dim = config.channels[-1]
        layers: list[nn.Module] = []
        before = 1
        for width, (kernel, pool) in zip(config.channels, _LAYERS, strict=False):
            layers.append(nn.Conv1d(before, width, kernel, stride=2, padding=kernel // 2, bias=False))
            layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU())
            layers.append(nn.MaxPool1d(pool, ceil_mode=True))
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(self.code_dim, dim)

    def trunk(self, inputs: Tensor) -> Outputs:
        """The waveform, (B, 1, T), to the maximum over time, (B, K)."""
        std, mean = torch.std_mean(inputs, dim=-1, keepdim=True)
        return (self.layers((inputs - mean) / (std + 1e-5)).amax(-1),)

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Project the maximum."""
        (code,) = outputs
        return AudioEncoding(self.head(code), code)
