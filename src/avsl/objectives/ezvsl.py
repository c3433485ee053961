"""EZ-VSL: max-pooled contrastive learning."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from avsl.functional.contrastive import Pooling, all_similarity_maps, pool_similarity, symmetric_info_nce
from avsl.schema import StrictConfig
from avsl.types import AVOutput, LossTerms, Needs


class EZVSLConfig(StrictConfig):
    """EZ-VSL's settings; the defaults are the published ones.

    Attributes:
        temperature: τ.
        pooling: how a pair's map becomes its score: ``max`` (published), ``topk`` or ``logsumexp``.
        topk: cells averaged by ``topk``.
        sharpness: temperature of ``logsumexp``.
    """

    temperature: float = Field(0.03, gt=0)
    pooling: Pooling = "max"
    topk: int = Field(8, ge=1)
    sharpness: float = Field(0.1, gt=0)


class EZVSL(nn.Module):
    """Multiple-instance contrastive loss (Mo & Morgado, ECCV 2022, arXiv 2203.09324, eq. 3-5).

    The score of image i with sound j is the maximum of their cosine map over the grid; cross-entropy both ways.
    Deviations: other poolings are available, because one cell gives too little gradient to train random weights;
    samples of one recording are no negatives of each other.
    """

    needs = Needs()

    def __init__(self, config: EZVSLConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of one view of a batch; its part is ``contrastive``."""
        (output,) = views
        scores = pool_similarity(
            all_similarity_maps(output.visual, output.audio),
            self.config.pooling,
            topk=self.config.topk,
            sharpness=self.config.sharpness,
        )
        loss = symmetric_info_nce(scores, self.config.temperature, output.recording)
        return LossTerms(loss, {"contrastive": loss.detach()})
