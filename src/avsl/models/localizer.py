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
from avsl.models.encoding import AudioEncoding
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.schema import ConfigError, StrictConfig
from avsl.types import AVBatch, AVOutput, FrozenTrunk, Head


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

    def see(self, batch: AVBatch) -> Tensor:
        """Compute the image encoder's output, (B, heads · dim, h, w), from the cached outputs of its trunk if any.

        Raises:
            ValueError: the batch has neither frames nor these outputs.
        """
        if batch.seen and (stages := batch.seen.get(self.image.trunk_key)) is not None:
            return self.image.merge(stages)
        if not batch.frame.numel():
            raise ValueError("the batch has neither frames nor the cached outputs of this image trunk")
        found: Tensor = self.image(batch.frame)
        return found

    def hear(self, batch: AVBatch) -> AudioEncoding:
        """Compute the audio encoder's output, from cached outputs of its trunk or of its front end if any.

        Raises:
            ValueError: the batch has neither waveforms nor these outputs.
        """
        if batch.heard and (codes := batch.heard.get(self.audio.trunk_key)) is not None:
            return self.audio.embed(codes)
        front_end = self.audio.front_end
        if front_end.key in batch.features:
            features = batch.features[front_end.key]
        elif batch.waveform is not None:
            features = front_end(batch.waveform)
        else:
            raise ValueError(f"the batch has neither a waveform nor '{front_end.key}' features")
        found: AudioEncoding = self.audio(features)
        return found

    def forward(self, batch: AVBatch, seen: Tensor | None = None) -> AVOutput:
        """Compute embeddings and logits of one view.

        Args:
            batch: the view.
            seen: what ``see`` returned for the view, where its frames are heard with several sounds.
        """
        encoding = self.hear(batch)
        features = self.see(batch) if seen is None else seen
        if self.coding is not None:
            features = self.coding(features, encoding.code)
        pairs = zip(features.chunk(self.config.heads, 1), encoding.embedding.chunk(self.config.heads, 1), strict=True)
        heads = tuple(Head(F.normalize(v.float(), dim=1), F.normalize(a.float(), dim=1)) for v, a in pairs)
        # Cosines in bf16 have two digits, too few for a loss at temperature 0.03.
        with torch.autocast(features.device.type, enabled=False):
            similarity = torch.stack([similarity_maps(head.visual, head.audio) for head in heads]).mean(0)
            logits = similarity * self.log_scale.exp() + self.offset
        return AVOutput(heads, logits, features[:, : self.config.dim])

    def frozen_image(self) -> FrozenTrunk | None:
        """The image encoder's trunk if it is frozen; its inputs are (B, 3, H, W) normalized frames."""
        return FrozenTrunk(self.image.trunk_key, self.image.trunk) if self.image.frozen else None

    def frozen_audio(self) -> FrozenTrunk | None:
        """The audio encoder's trunk if it is frozen; its inputs are (B, T) waveforms."""
        audio = self.audio
        return FrozenTrunk(audio.trunk_key, lambda x: audio.trunk(audio.front_end(x))) if audio.frozen else None

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
