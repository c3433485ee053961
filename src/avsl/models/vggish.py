"""VGGish: front end and network of AudioSet's embeddings, as in SSPL."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.models.backbone import load_weights
from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.schema import StrictConfig
from avsl.types import FrontEnd, Outputs

_SAMPLE_RATE = 16000  # Hz
_WINDOW, _HOP, _N_FFT = 400, 160, 512  # samples: 25 ms, 10 ms
_BANDS, _LOWEST, _HIGHEST = 64, 125.0, 7500.0  # Hz
_EXAMPLE = 96  # frames: 0.96 s
_SHORTEST = (_EXAMPLE - 1) * _HOP + _WINDOW  # samples that one example needs: 0.975 s

_Width = Annotated[int, Field(ge=1)]


class VGGishExamples(nn.Module):
    """Waveform (B, T) at 16 kHz to VGGish's log-mel examples, (B, 1, n · 96, 64), one after the other.

    Source: Hershey et al., ICASSP 2017, arXiv 1609.09430, and the published code: magnitudes of 25 ms Hann windows
    every 10 ms, 64 mel bands of 125 to 7500 Hz that are triangles on the mel scale, log(x + 0.01), cut into examples
    of 0.96 s. The rest after the last whole example is dropped; a sound shorter than the 0.975 s of one example is
    repeated to that length (for such sounds the published code has no output).
    """

    key = "vggish"
    cacheable = True
    window: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW, periodic=True), persistent=False)
        self.register_buffer("mel", _mel_bands(), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features in float32, because the amplitudes of quiet sounds underflow in half precision."""
        with torch.autocast(waveform.device.type, enabled=False):
            missing = _SHORTEST - waveform.shape[-1]
            if missing > 0:
                waveform = waveform.repeat(1, 1 + -(-missing // waveform.shape[-1]))[:, :_SHORTEST]
            frames = waveform.float().unfold(-1, _WINDOW, _HOP) * self.window
            log_mel = torch.log(torch.fft.rfft(frames, _N_FFT).abs() @ self.mel + 0.01)
            whole = log_mel.shape[1] // _EXAMPLE * _EXAMPLE
            return log_mel[:, :whole].unsqueeze(1)


def _mel_bands() -> Tensor:
    """Weights of the spectrum's bins in each band, (257, 64)."""

    def to_mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    bins = to_mel(torch.linspace(0, _SAMPLE_RATE / 2, _N_FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = to_mel(torch.tensor([_LOWEST, _HIGHEST], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, _BANDS + 2, dtype=torch.float64)
    step = edges[1] - edges[0]
    weights = torch.minimum((bins - edges[:-2]) / step, (edges[2:] - bins) / step)
    return weights.clamp(min=0).float()


class VGGishEncoderConfig(StrictConfig):
    """VGGish on log-mel examples; the default widths are the published ones.

    Attributes:
        kind: name of the audio encoder.
        channels: widths of the four groups of convolutions.
        hidden: width of the two layers before the 128-d code.
        weights: a local safetensors file of VGGish, its tensors named ``features.*`` and ``embeddings.*``; empty
            starts from scratch.
        norm: whether a batch-norm follows each convolution. VGGish has none, but trains poorly from scratch without.
        frozen: whether the network is not trained, up to its code.
    """

    kind: Literal["vggish"] = "vggish"
    channels: tuple[_Width, _Width, _Width, _Width] = (64, 128, 256, 512)
    hidden: int = Field(4096, ge=1)
    weights: str = ""
    norm: bool = False
    frozen: bool = False


class VGGishEncoder(AudioEncoder):
    """VGGish's examples (B, 1, n · 96, 64) to an embedding: a code of each example, two linear layers, their mean.

    Source: SSPL (Song et al., CVPR 2022, arXiv 2203.13412) on VGGish (Hershey et al., ICASSP 2017, arXiv 1609.09430).
    The code is the mean over examples, L2-normalized; the embedding is the mean over examples of the linear
    layers' output. Parts are named as in the published checkpoints.
    """

    TRUNK = ("features", "embeddings")
    code_dim = 128

    def __init__(self, config: VGGishEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end: FrontEnd = VGGishExamples()
        one, two, three, four = config.channels
        layers: list[nn.Module] = []
        for before, *widths in ((1, one), (one, two), (two, three, three), (three, four, four)):
            for width in widths:
                norm = [nn.BatchNorm2d(width)] if config.norm else []
                layers += [nn.Conv2d(before, width, 3, padding=1), *norm, nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(four * (_EXAMPLE // 16) * (_BANDS // 16), config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, self.code_dim),
            nn.ReLU(),
        )
        if config.weights:
            parts = nn.ModuleDict({"features": self.features, "embeddings": self.embeddings})
            load_weights("model.audio.weights", config.weights, parts, "VGGish")
        else:
            # With PyTorch's default initialization the signal vanishes over nine layers without norms.
            for layer in (*self.features, *self.embeddings):
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.freeze_if_asked()
        self.fc = nn.Sequential(nn.Linear(self.code_dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def trunk(self, inputs: Tensor) -> Outputs:
        """The front end's examples, (B, 1, n · 96, 64), to a code of each, (B, n, 128)."""
        examples = inputs.reshape(-1, 1, _EXAMPLE, inputs.shape[-1])
        grids = self.features(examples)
        # The published embeddings come from a network with channels last.
        return (self.embeddings(grids.permute(0, 2, 3, 1).flatten(1)).view(inputs.shape[0], -1, self.code_dim),)

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Project the examples' codes."""
        (codes,) = outputs
        return AudioEncoding(self.fc(codes).mean(1), F.normalize(codes.float().mean(1), dim=-1))
