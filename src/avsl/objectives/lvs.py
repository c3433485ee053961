"""LVS: contrastive learning with hard negatives from the own image's background."""

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
        positive_threshold: ε_p, similarity from which a cell is taken for the source.
        negative_threshold: ε_n, similarity below which a cell of the own image is taken for background; cells between
            the two are left in doubt.
        mask_temperature: how softly both thresholds cut.
        temperature: of the logits.
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

    A pair's score is the mean of its cosine map S over a soft mask, sigmoid((S − ε_p) / T). Each image's own score
    stands against its scores with all sounds and against the mean of S over its own background,
    1 − sigmoid((S − ε_n) / T); cross-entropy from images to sounds. As in the published code, the own pair stays among
    the negatives with its score times −99: that removes it while the score is positive and is a steep penalty while it
    is negative.

    Deviations: masks are handled as logarithms, so that a map all above ε_n or all far below ε_p has a finite loss;
    rows of one recording are no negatives of each other.
    """

    needs = Needs()

    def __init__(self, config: LVSConfig) -> None:
        super().__init__()
        self.config = config

    def scores(self, output: AVOutput) -> Tensor:
        """(B, B + 2) before the temperature: the positive, the scores with all sounds, the own background."""
        config = self.config
        maps = all_similarity_maps(output.visual, output.audio)
        pairs = masked_mean(maps, log_soft_mask(maps, config.positive_threshold, config.mask_temperature))
        own = similarity_maps(output.visual, output.audio)
        background = masked_mean(own, log_soft_mask(-own, -config.negative_threshold, config.mask_temperature))
        negatives = pairs * (1 - 100 * torch.eye(len(pairs), dtype=pairs.dtype, device=pairs.device))
        return torch.cat([pairs.diagonal().unsqueeze(1), negatives, background.unsqueeze(1)], dim=1)

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """The loss of one view of a batch; a part ``contrastive``."""
        (output,) = views
        logits = self.scores(output) / self.config.temperature
        # The positive and the own background stand beside the sounds.
        weights = negative_weights(output.recording, logits).expand(len(logits), len(logits))
        logits = logits + F.pad(weights, (1, 1))
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        return LossTerms(loss, {"contrastive": loss.detach()})
