"""LVS: contrastive learning with hard negatives from the background of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.functional.contrastive import (
    all_similarity_maps,
    log_soft_mask,
    masked_mean,
    negative_weights,
    similarity_maps,
)
from avsl.schema import StrictConfig
from avsl.types import AVOutput, LossTerms, Needs


class LVSConfig(StrictConfig):
    """LVS's settings; the defaults are the published ones.

    Attributes:
        positive_threshold: ε_p, similarity from which a cell belongs to the source.
        negative_threshold: ε_n, similarity below which a cell belongs to the background; cells between the two
            thresholds are ignored.
        mask_temperature: T of the soft masks at both thresholds.
        temperature: temperature of the logits.
    """

    positive_threshold: float = Field(0.65, ge=-1, le=1)
    negative_threshold: float = Field(0.4, ge=-1, le=1)
    mask_temperature: float = Field(0.03, gt=0)
    temperature: float = Field(0.07, gt=0)

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> Self:
        if self.negative_threshold > self.positive_threshold:
            raise ValueError("negative_threshold must not be above positive_threshold")
        return self


class LVS(nn.Module):
    """Localizing visual sounds the hard way (Chen et al., CVPR 2021, arXiv 2104.02691, eq. 3-6).

    A pair's score is the mean of its cosine map S over a soft mask, sigmoid((S − ε_p) / T). The positive is
    an image's score with its sound. Its negatives are its scores with all sounds and the mean of S over its background,
    1 − sigmoid((S − ε_n) / T); the loss is the cross-entropy from images to sounds. As in the published code, the
    positive pair is also a negative with its score times −99, which is negligible for a positive score and a steep
    penalty for a negative one.

    Deviations: masks are computed as logarithms, so that the loss is finite for a map that is all above ε_n or far
    below ε_p; samples of one recording are no negatives of each other.
    """

    needs = Needs()

    def __init__(self, config: LVSConfig) -> None:
        super().__init__()
        self.config = config

    def scores(self, output: AVOutput) -> Tensor:
        """(B, B + 2) scores before the temperature: of the positive, with all sounds, and of the background."""
        config = self.config
        maps = all_similarity_maps(output.visual, output.audio)
        pairs = masked_mean(maps, log_soft_mask(maps, config.positive_threshold, config.mask_temperature))
        own = similarity_maps(output.visual, output.audio)
        background = masked_mean(own, log_soft_mask(-own, -config.negative_threshold, config.mask_temperature))
        negatives = pairs * (1 - 100 * torch.eye(len(pairs), dtype=pairs.dtype, device=pairs.device))
        return torch.cat([pairs.diagonal().unsqueeze(1), negatives, background.unsqueeze(1)], dim=1)

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of one view of a batch; its part is ``contrastive``."""
        (output,) = views
        logits = self.scores(output) / self.config.temperature
        # The columns of the positive and of the background have weight 1.
        weights = negative_weights(output.recording, logits).expand(len(logits), len(logits))
        logits = logits + F.pad(weights, (1, 1))
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        return LossTerms(loss, {"contrastive": loss.detach()})
