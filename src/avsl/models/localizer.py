"""The audio-visual localizer: two encoders and a confidence map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.functional.contrastive import similarity_maps
from avsl.functional.geometry import identity
from avsl.functional.image import normalize
from avsl.functional.pseudo_labels import to_finest_grid
from avsl.models.audio import AudioEncoderConfig, SpectrogramEncoderConfig, make_audio_encoder
from avsl.models.coding import PredictiveCoding, PredictiveCodingConfig
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.schema import ConfigError, StrictConfig
from avsl.types import AVBatch, AVOutput, Head


class LocalizerConfig(StrictConfig):
    """A localizer.

    Attributes:
        dim: embedding width C.
        heads: number of pairs of embeddings, whose similarities are averaged; set by the objective.
        scale: initial scale of P = sigmoid(scale · S + offset); both are trained.
        offset: initial offset, with which maps are nearly silent.
        image: image encoder.
        audio: audio encoder.
        coding: SSPL's predictive coding module between the encoders and the similarity; None for none.
    """

    dim: int = Field(512, ge=1)
    heads: int = Field(1, ge=1, le=2)
    scale: float = Field(10.0, gt=0)
    offset: float = -2.0
    image: ImageEncoderConfig = ImageEncoderConfig()
    audio: AudioEncoderConfig = SpectrogramEncoderConfig()
    coding: PredictiveCodingConfig | None = None


class Localizer(nn.Module):
    """Frame and sound to embeddings, similarity S and confidence P = sigmoid(scale · S + offset).

    P is absolute: unlike a min-max map, the map of a silent frame can lie below every threshold.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.heads * config.dim
        self.image = ImageEncoder(config.image, width)
        self.audio = make_audio_encoder(config.audio, width)
        self.coding: nn.Module | None = None
        if config.coding is not None:
            if config.heads > 1:
                raise ConfigError("model.coding: predictive coding needs an objective with one pair of embeddings")
            self.coding = PredictiveCoding(config.coding, config.dim, self.audio.code_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.offset = nn.Parameter(torch.tensor(config.offset))

    def forward(self, batch: AVBatch, seen: Tensor | None = None) -> AVOutput:
        """Compute embeddings and logits of one view, from cached front-end features if the batch has them.

        Args:
            batch: the view.
            seen: what ``image`` returned for the view's frames, where they are heard with several sounds.
        """
        front_end = self.audio.front_end
        if front_end.key in batch.features:
            heard = batch.features[front_end.key]
        elif batch.waveform is not None:
            heard = front_end(batch.waveform)
        else:
            raise ValueError(f"the batch has neither a waveform nor '{front_end.key}' features")
        encoding = self.audio(heard)
        features = self.image(batch.frame) if seen is None else seen
        if self.coding is not None:
            features = self.coding(features, encoding.code)
        pairs = zip(features.chunk(self.config.heads, 1), encoding.embedding.chunk(self.config.heads, 1), strict=True)
        heads = tuple(Head(F.normalize(v.float(), dim=1), F.normalize(a.float(), dim=1)) for v, a in pairs)
        # Cosines in bf16 have two digits, too few for a loss at temperature 0.03.
        with torch.autocast(features.device.type, enabled=False):
            similarity = torch.stack([similarity_maps(head.visual, head.audio) for head in heads]).mean(0)
            logits = similarity * self.log_scale.exp() + self.offset
        return AVOutput(heads, logits, features[:, : self.config.dim])

    def calibration(self) -> list[nn.Parameter]:
        """Scale and offset, which only labels can train."""
        return [self.log_scale, self.offset]


class LocalizerEnsemble(nn.Module):
    """Localizers whose confidences are averaged; most methods export one, DMT its two teachers."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def configs(self) -> list[LocalizerConfig]:
        """The members' configurations."""
        return [member.config for member in self.members if isinstance(member, Localizer)]

    def forward(self, batch: AVBatch) -> Tensor:
        """Compute P, (B, h, w) in [0, 1], on the finest member's grid."""
        return average([member(batch).confidence for member in self.members])

    @torch.inference_mode()
    def predict(self, frames: Tensor, waveforms: Tensor) -> Tensor:
        """Compute P, (B, h, w), of (B, H, W, 3) uint8 frames and (B, T) waveforms in [-1, 1]."""
        batch = AVBatch(
            frame=normalize(frames),
            waveform=waveforms,
            features={},
            index=torch.arange(len(frames)),
            geometry=identity(len(frames), frames.device),
        )
        confidence: Tensor = self(batch)
        return confidence


def average(maps: Sequence[Tensor]) -> Tensor:
    """The mean of (B, h, w) confidence maps, resized to the finest grid."""
    return torch.stack(to_finest_grid(maps)).mean(0)
