"""The audio encoders by kind: what a front end hears to one embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator

from avsl.models.encoding import AudioEncoder
from avsl.models.spectrogram import SpectrogramEncoder, SpectrogramEncoderConfig, make_spectrogram
from avsl.models.vggish import VGGishEncoder, VGGishEncoderConfig, VGGishExamples
from avsl.models.waveform import RawWaveform, WaveformEncoder, WaveformEncoderConfig
from avsl.types import FrontEnd

__all__ = [
    "AudioEncoderConfig",
    "SpectrogramEncoderConfig",
    "VGGishEncoderConfig",
    "WaveformEncoderConfig",
    "make_audio_encoder",
    "make_front_end",
]


def _with_kind(section: Any) -> Any:
    """A section that does not say which encoder it describes is a spectrogram's."""
    return {"kind": "spectrogram"} | dict(section) if isinstance(section, Mapping) else section


AudioEncoderConfig = Annotated[
    SpectrogramEncoderConfig | VGGishEncoderConfig | WaveformEncoderConfig,
    Discriminator("kind"),
    BeforeValidator(_with_kind),
]

_FRONT_ENDS: dict[str, Callable[[Any], FrontEnd]] = {
    "spectrogram": make_spectrogram,
    "vggish": lambda _: VGGishExamples(),
    "waveform": lambda _: RawWaveform(),
}
_ENCODERS: dict[str, Callable[[Any, int], AudioEncoder]] = {
    "spectrogram": SpectrogramEncoder,
    "vggish": VGGishEncoder,
    "waveform": WaveformEncoder,
}


def make_front_end(config: AudioEncoderConfig) -> FrontEnd:
    """What the encoder that a section describes hears."""
    return _FRONT_ENDS[config.kind](config)


def make_audio_encoder(config: AudioEncoderConfig, dim: int) -> AudioEncoder:
    """The encoder that a section describes, with embeddings of width ``dim``."""
    return _ENCODERS[config.kind](config, dim)
