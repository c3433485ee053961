"""aiSFX: front end and network of an encoder of sound effects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torchaudio
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.models.backbone import load_weights
from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.schema import StrictConfig
from avsl.types import FrontEnd, Outputs

_SAMPLE_RATE = 44100  # Hz
_N_FFT, _HOP, _BANDS = 2048, 1024, 96
_SHORTEST = 8  # frames, for three poolings


class AiSFXMel(nn.Module):
    """Waveform (B, T) to aiSFX's log-mel spectrogram, (B, 1, frames, 96), time first.

    Source: Ma and Lerch, ISMIR 2022, and the published code: the sound at 44.1 kHz with its peak at 1, windows of 2048
    samples every 1024, power in 96 HTK mel bands from 0 to 22,050 Hz, whose weights sum to 1, and
    log10(1 + 10,000 m) / 9.4578.

    Args:
        sample_rate: sample rate of the waveforms, Hz.
    """

    cacheable = True
    bands: Tensor
    window: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.key = f"aisfx-{sample_rate}"
        self.resample = torchaudio.transforms.Resample(sample_rate, _SAMPLE_RATE)
        bands = torchaudio.functional.melscale_fbanks(
            _N_FFT // 2 + 1, 0.0, _SAMPLE_RATE / 2, _BANDS, _SAMPLE_RATE, mel_scale="htk"
        )
        self.register_buffer("bands", bands / bands.sum(0).clamp(min=1e-8), persistent=False)
        self.register_buffer("window", torch.hann_window(_N_FFT), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features in float32, because the power of quiet sounds underflows in half precision."""
        with torch.autocast(waveform.device.type, enabled=False):
            sound = self.resample(waveform.float())
            sound = sound / sound.abs().amax(-1, keepdim=True).clamp(min=1e-8)
            sound = F.pad(sound, (0, max(0, _SHORTEST * _HOP - sound.shape[-1])))
            spectrum = torch.stft(sound, _N_FFT, _HOP, window=self.window, pad_mode="constant", return_complex=True)
            power = spectrum.abs().square().transpose(1, 2)
            return (torch.log10(1 + 10000 * (power @ self.bands)) / 9.4578).unsqueeze(1)


class AiSFXEncoderConfig(StrictConfig):
    """aiSFX; the default widths are the published ones.

    Attributes:
        kind: name of the audio encoder.
        channels: widths of the four blocks.
        weights: ``aisfx``, or a safetensors file with its tensors' names; empty starts from scratch.
        frozen: whether the network is not trained, up to its code.
        sample_rate: sample rate of the waveforms, Hz.
    """

    kind: Literal["aisfx"] = "aisfx"
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    weights: str = ""
    frozen: bool = False
    sample_rate: int = Field(16000, ge=8000, le=96000)


class _Block(nn.Module):
    """Two convolutions with norms; tensors are named as in the published checkpoint."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T, F) to (B, width, T, F)."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def _make_network(channels: Sequence[int]) -> nn.Sequential:
    """The blocks, with 2 × 2 maxima between them."""
    network = nn.Sequential()
    for k, (before, width) in enumerate(itertools.pairwise((1, *channels)), start=1):
        network.add_module(f"conv_block{k}", _Block(before, width))
        if k < len(channels):
            network.add_module(f"pool{k}", nn.MaxPool2d(2))
    return network


class AiSFXEncoder(AudioEncoder):
    """Log-mel spectrogram (B, 1, frames, 96) to an embedding: four blocks of convolutions, linear layer.

    Source: Ma and Lerch, Representation Learning for the Automatic Indexing of Sound Effects Libraries, ISMIR 2022. The
    code is the mean over frequency and the maximum over time; published windows have 100 frames, here a sound of any
    length is one window. The linear layer gets the code with zero mean and unit variance.
    """

    TRUNK = ("network",)

    def __init__(self, config: AiSFXEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end: FrontEnd = AiSFXMel(config.sample_rate)
        self.code_dim = config.channels[-1]
        self.network = _make_network(config.channels)
        if config.weights:
            load_weights("model.audio.weights", config.weights, self.network, "aiSFX")
        self.freeze_if_asked()
        self.head = nn.Linear(self.code_dim, dim)

    def trunk(self, inputs: Tensor) -> Outputs:
        """Features of the front end, (B, 1, frames, 96), to the code, (B, K)."""
        return (self.network(inputs).mean(-1).amax(-1),)

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Project the standardized code."""
        (code,) = outputs
        return AudioEncoding(self.head(F.layer_norm(code, code.shape[1:])), code)
