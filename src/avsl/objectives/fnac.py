"""FNAC: EZ-VSL's loss with awareness of false negatives."""

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
        foreground_threshold: position in a map's range above which a cell is foreground.
        fns_audio_weight: weight of the false-negative suppression by similar sounds.
        tns_weight: weight of the true-negative enhancement by similar foregrounds.
        fns_image_weight: weight of the false-negative suppression by similar images.
        warmup_steps: steps on the contrastive term alone; below 1 a share of the training. The published 5 epochs
            of 144,000 clips in batches of 256, without the last partial batch, are 2,810 steps.
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

    EZ-VSL's loss plus three mean absolute differences between B × B relations, each of which is a row-wise softmax
    with τ: between audio-audio (AAᵀ) and image-audio (pooled S), between AAᵀ and foreground-foreground (FFᵀ), and
    between image-image (V̄V̄ᵀ) and pooled S. V̄ is the mean of V over all cells; F is the sum of V over the foreground of
    the image's map with its sound, divided by the number of all cells. As in the published code, neither is normalized
    again and no gradient is stopped.

    Deviations: other poolings are available, as in EZ-VSL; the min-max map has no 1e-5 in its denominator; samples of
    one recording are no negatives of each other, and their relations count 0.
    """

    needs = Needs()

    def __init__(self, config: FNACConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of one view of a batch.

        Parts ``contrastive``, ``fns_audio``, ``tns`` and ``fns_image``; the last three are also measured during the
        warm-up.
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
