"""SoundNet with its published weights."""

from __future__ import annotations

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

_SAMPLE_RATE = 22050  # Hz
_SCALE = 256  # the published network has samples in [-256, 256]
# Kernel, padding and channels of each layer, whose stride is 2, and the max pooling after it.
_LAYERS = (
    *((64, 32, 16, 8), (32, 16, 32, 8), (16, 8, 64, 1), (8, 4, 128, 1)),
    *((4, 2, 256, 4), (4, 2, 512, 1), (4, 2, 1024, 1)),
)
_CODES = (5, 7)  # layers whose means over time make up the code
_SHORTEST = 4574  # samples, for seven layers


class SoundNetWaveform(nn.Module):
    """Waveform (B, T) to (B, 1, T') at 22,050 Hz, times 256; short sounds are padded with silence.

    Args:
        sample_rate: sample rate of the waveforms, Hz.
    """

    cacheable = False

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.key = f"soundnet-{sample_rate}"
        self.resample = torchaudio.transforms.Resample(sample_rate, _SAMPLE_RATE)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the waveform in float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            sound = _SCALE * self.resample(waveform.float())
            return F.pad(sound, (0, max(0, _SHORTEST - sound.shape[-1]))).unsqueeze(1)


class SoundNetEncoderConfig(StrictConfig):
    """SoundNet.

    Attributes:
        kind: name of the audio encoder.
        weights: ``soundnet``, or a safetensors file with its tensors' names; empty starts from scratch.
        frozen: whether the network is not trained, up to its code.
        sample_rate: sample rate of the waveforms, Hz.
    """

    kind: Literal["soundnet"] = "soundnet"
    weights: str = ""
    frozen: bool = False
    sample_rate: int = Field(16000, ge=8000, le=96000)


class SoundNetEncoder(AudioEncoder):
    """Waveform (B, 1, T) at 22,050 Hz to an embedding: seven layers, two means over time, linear layer.

    Source: SoundNet (Aytar et al., NeurIPS 2016, arXiv 1610.09001), without its eighth layer, which has the classes of
    its teachers. The code is the mean over time of the fifth layer (256 channels, after its maximum) and of the
    seventh (1,024); the linear layer gets each of them with zero mean and unit variance.
    """

    TRUNK = ("network",)
    OUTPUTS = len(_CODES)
    code_dim = sum(_LAYERS[k - 1][2] for k in _CODES)

    def __init__(self, config: SoundNetEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end: FrontEnd = SoundNetWaveform(config.sample_rate)
        self.network = nn.ModuleDict()
        before = 1
        for k, (kernel, padding, width, _) in enumerate(_LAYERS, start=1):
            self.network[f"conv{k}"] = nn.Conv1d(before, width, kernel, stride=2, padding=padding)
            self.network[f"norm{k}"] = nn.BatchNorm1d(width)
            before = width
        if config.weights:
            load_weights("model.audio.weights", config.weights, self.network, "SoundNet")
        self.freeze_if_asked()
        self.head = nn.Linear(self.code_dim, dim)

    def trunk(self, inputs: Tensor) -> Outputs:
        """Features of the front end, (B, 1, T), to the two means over time, (B, 256) and (B, 1024)."""
        codes = []
        for k, (_, _, _, pool) in enumerate(_LAYERS, start=1):
            inputs = F.max_pool1d(F.relu(self.network[f"norm{k}"](self.network[f"conv{k}"](inputs))), pool)
            if k in _CODES:
                codes.append(inputs.mean(-1))
        return tuple(codes)

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Project the standardized means."""
        heard = torch.cat([F.layer_norm(code, code.shape[1:]) for code in outputs], 1)
        return AudioEncoding(self.head(heard), torch.cat(outputs, 1))
