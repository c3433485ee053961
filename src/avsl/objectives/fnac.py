"""FNAC: EZ-VSL's loss, made aware of false negatives."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from avsl.functional.contrastive import (
    Pooling,
    all_similarity_maps,
    foreground_mask,
    pool_similarity,
    relation_gap,
    similarity_maps,
    symmetric_info_nce,
)
from avsl.schema import Steps, StrictConfig
from avsl.types import AVOutput, LossTerms, Needs


class FNACConfig(StrictConfig):
    """FNAC's settings; the defaults are the published ones.

    Attributes:
        temperature: τ of all four terms.
        pooling: how a pair's map becomes its score: ``max`` (published), ``topk`` or ``logsumexp``.
        topk: cells averaged by ``topk``.
        sharpness: temperature of ``logsumexp``.
        foreground_threshold: share of a map's range above which a cell is foreground.
        fns_audio_weight: of the suppression of false negatives by what sounds alike.
        tns_weight: of the enhancement of true negatives by what foregrounds have in common.
        fns_image_weight: of the suppression of false negatives by what looks alike.
        warmup_steps: steps on the contrastive term alone; below 1 a share of the training. Published: 5 epochs of
            144,000 clips in batches of 256 without the last, partial one, which are 2,810 steps.
    """

    temperature: float = Field(0.03, gt=0)
    pooling: Pooling = "max"
    topk: int = Field(8, ge=1)
    sharpness: float = Field(0.1, gt=0)
    foreground_threshold: float = Field(0.6, ge=0, lt=1)
    fns_audio_weight: float = Field(100.0, ge=0)
    tns_weight: float = Field(100.0, ge=0)
    fns_image_weight: float = Field(100.0, ge=0)
    warmup_steps: Steps = 2810


class FNAC(nn.Module):
    """False-negative-aware contrastive loss (Sun et al., CVPR 2023, arXiv 2303.11302).

    Added to EZ-VSL's loss are three distances between B × B relations, each a row-wise softmax over τ, each a mean
    absolute difference: audio with audio (AAᵀ) from image with audio (S pooled); AAᵀ from foreground with foreground
    (FFᵀ); image with image (V̄V̄ᵀ) from S pooled. V̄ is the mean of V over all cells; F the sum of V over the foreground
    of the own map divided by the number of all cells. Neither is normalized again, and no gradient is stopped, as in
    the published code.

    Deviations: other poolings by choice, as in EZ-VSL; the min-max map has no 1e-5 in its denominator; rows of one
    recording are no negatives of each other, and their relations count 0.
    """

    needs = Needs()

    def __init__(self, config: FNACConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """The loss of one view of a batch.

        Parts ``contrastive``, ``fns_audio``, ``tns`` and ``fns_image``, the last three also before they count.
        """
        (output,) = views
        config, visual, audio, recording = self.config, output.visual, output.audio, output.recording
        scores = pool_similarity(
            all_similarity_maps(visual, audio), config.pooling, topk=config.topk, sharpness=config.sharpness
        )
        foreground = foreground_mask(similarity_maps(visual, audio), config.foreground_threshold)
        sounding = (visual * foreground.unsqueeze(1)).mean((-2, -1))
        seen = visual.mean((-2, -1))
        heard_alike, sounding_alike, seen_alike = audio @ audio.T, sounding @ sounding.T, seen @ seen.T

        contrastive = symmetric_info_nce(scores, config.temperature, recording)
        fns_audio = relation_gap(heard_alike, scores, config.temperature, recording)
        tns = relation_gap(heard_alike, sounding_alike, config.temperature, recording)
        fns_image = relation_gap(seen_alike, scores, config.temperature, recording)
        total = contrastive
        if step >= config.warmup_steps:
            total = (
                contrastive
                + config.fns_audio_weight * fns_audio
                + config.tns_weight * tns
                + config.fns_image_weight * fns_image
            )
        terms = {"contrastive": contrastive, "fns_audio": fns_audio, "tns": tns, "fns_image": fns_image}
        return LossTerms(total, {name: term.detach() for name, term in terms.items()})
