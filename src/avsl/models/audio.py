"""The audio encoders by kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BeforeValidator, Discriminator, Field
from torch import Tensor, nn

from avsl.models.aisfx import AiSFXEncoder, AiSFXEncoderConfig
from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.models.soundnet import SoundNetEncoder, SoundNetEncoderConfig
from avsl.models.spectrogram import SpectrogramEncoder, SpectrogramEncoderConfig
from avsl.models.vggish import VGGishEncoder, VGGishEncoderConfig
from avsl.models.waveform import RawWaveform, WaveformEncoder, WaveformEncoderConfig
from avsl.schema import StrictConfig
from avsl.types import FrontEnd, Outputs

__all__ = [
    "AiSFXEncoderConfig",
    "AudioEncoderConfig",
    "JoinedEncoderConfig",
    "SoundNetEncoderConfig",
    "SpectrogramEncoderConfig",
    "VGGishEncoderConfig",
    "WaveformEncoderConfig",
    "make_audio_encoder",
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


class JoinedEncoder(AudioEncoder):
    """Waveform (B, 1, T) to an embedding: a linear layer on the concatenated codes of several encoders.

    The layer is computed as the sum of the encoders' embeddings, each of which ends in a linear layer.
    """

    def __init__(self, config: JoinedEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end: FrontEnd = RawWaveform()
        self.encoders = nn.ModuleList(make_audio_encoder(c, dim) for c in config.encoders)
        self.code_dim = sum(encoder.code_dim for encoder in self._joined())
        self.frozen = all(encoder.frozen for encoder in self._joined())

    def _joined(self) -> list[AudioEncoder]:
        return [cast("AudioEncoder", encoder) for encoder in self.encoders]

    def trunk_modules(self) -> list[nn.Module]:
        """The trunks' modules of all encoders."""
        return [module for encoder in self._joined() for module in encoder.trunk_modules()]

    def _hash_trunk(self) -> str:
        return hashlib.sha256("\n".join(encoder.trunk_key for encoder in self._joined()).encode()).hexdigest()

    def trunk(self, inputs: Tensor) -> Outputs:
        """The waveform, (B, 1, T), to the outputs of all encoders' trunks."""
        return tuple(x for encoder in self._joined() for x in encoder.trunk(encoder.front_end(inputs[:, 0])))

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Add the encoders' embeddings of their outputs."""
        encodings, start = [], 0
        for encoder in self._joined():
            encodings.append(encoder.embed(outputs[start : start + encoder.OUTPUTS]))
            start += encoder.OUTPUTS
        code = torch.cat([encoding.code for encoding in encodings], 1)
        return AudioEncoding(torch.stack([encoding.embedding for encoding in encodings]).sum(0), code)


_ENCODERS: dict[str, Callable[[Any, int], AudioEncoder]] = {
    "spectrogram": SpectrogramEncoder,
    "vggish": VGGishEncoder,
    "waveform": WaveformEncoder,
    "aisfx": AiSFXEncoder,
    "soundnet": SoundNetEncoder,
    "joined": JoinedEncoder,
}


def make_audio_encoder(config: AudioEncoderConfig, dim: int) -> AudioEncoder:
    """Make the encoder that a section describes, with embeddings of width ``dim``."""
    return _ENCODERS[config.kind](config, dim)
