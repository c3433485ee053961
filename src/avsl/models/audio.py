"""The audio encoders by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BeforeValidator, Discriminator, Field
from torch import Tensor, nn

from avsl.models.aisfx import AiSFXEncoder, AiSFXEncoderConfig, AiSFXMel
from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.models.soundnet import SoundNetEncoder, SoundNetEncoderConfig, SoundNetWaveform
from avsl.models.spectrogram import SpectrogramEncoder, SpectrogramEncoderConfig, make_spectrogram
from avsl.models.vggish import VGGishEncoder, VGGishEncoderConfig, VGGishExamples
from avsl.models.waveform import RawWaveform, WaveformEncoder, WaveformEncoderConfig
from avsl.schema import StrictConfig
from avsl.types import FrontEnd

__all__ = [
    "AiSFXEncoderConfig",
    "AudioEncoderConfig",
    "JoinedEncoderConfig",
    "SoundNetEncoderConfig",
    "SpectrogramEncoderConfig",
    "VGGishEncoderConfig",
    "WaveformEncoderConfig",
    "make_audio_encoder",
    "make_front_end",
]


def _with_kind(section: Any) -> Any:
    """Make ``spectrogram`` the default kind of a section."""
    return {"kind": "spectrogram"} | dict(section) if isinstance(section, Mapping) else section


_Alone = (
    SpectrogramEncoderConfig | VGGishEncoderConfig | WaveformEncoderConfig | AiSFXEncoderConfig | SoundNetEncoderConfig
)


class JoinedEncoderConfig(StrictConfig):
    """Several audio encoders in one student.

    Attributes:
        kind: name of the audio encoder.
        encoders: sections of the joined encoders.
    """

    kind: Literal["joined"] = "joined"
    encoders: tuple[Annotated[_Alone, Discriminator("kind"), BeforeValidator(_with_kind)], ...] = Field(min_length=2)


AudioEncoderConfig = Annotated[_Alone | JoinedEncoderConfig, Discriminator("kind"), BeforeValidator(_with_kind)]


class JoinedEncoder(nn.Module):
    """Waveform (B, 1, T) to an embedding: a linear layer on the concatenated codes of several encoders.

    The layer is computed as the sum of the encoders' embeddings, each of which ends in a linear layer.
    """

    def __init__(self, config: JoinedEncoderConfig, dim: int) -> None:
        super().__init__()
        self.front_end: FrontEnd = RawWaveform()
        self.encoders = nn.ModuleList(cast("nn.Module", make_audio_encoder(c, dim)) for c in config.encoders)
        self.code_dim = sum(cast("int", encoder.code_dim) for encoder in self.encoders)

    def forward(self, features: Tensor) -> AudioEncoding:
        """The waveform, (B, 1, T)."""
        encodings = [encoder(cast("FrontEnd", encoder.front_end)(features[:, 0])) for encoder in self.encoders]
        code = torch.cat([encoding.code for encoding in encodings], 1)
        return AudioEncoding(torch.stack([encoding.embedding for encoding in encodings]).sum(0), code)


_FRONT_ENDS: dict[str, Callable[[Any], FrontEnd]] = {
    "spectrogram": make_spectrogram,
    "vggish": lambda _: VGGishExamples(),
    "waveform": lambda _: RawWaveform(),
    "aisfx": lambda config: AiSFXMel(config.sample_rate),
    "soundnet": lambda config: SoundNetWaveform(config.sample_rate),
    "joined": lambda _: RawWaveform(),
}
_ENCODERS: dict[str, Callable[[Any, int], AudioEncoder]] = {
    "spectrogram": SpectrogramEncoder,
    "vggish": VGGishEncoder,
    "waveform": WaveformEncoder,
    "aisfx": AiSFXEncoder,
    "soundnet": SoundNetEncoder,
    "joined": JoinedEncoder,
}


def make_front_end(config: AudioEncoderConfig) -> FrontEnd:
    """Make the front end of the encoder that a section describes."""
    return _FRONT_ENDS[config.kind](config)


def make_audio_encoder(config: AudioEncoderConfig, dim: int) -> AudioEncoder:
    """Make the encoder that a section describes, with embeddings of width ``dim``."""
    return _ENCODERS[config.kind](config, dim)
