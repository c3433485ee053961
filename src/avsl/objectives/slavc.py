"""SLAVC: localization and correspondence in separate heads, with momentum targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from avsl.functional.contrastive import all_similarity_maps, joint_scores
from avsl.schema import StrictConfig
from avsl.types import AVOutput, LossTerms, Needs


class SLAVCConfig(StrictConfig):
    """SLAVC's settings; the defaults are the published ones.

    Attributes:
        temperature: τ of both softmaxes.
        momentum: m of the momentum encoders.
        momentum_inference: whether the momentum encoders are validated and exported.
    """

    temperature: float = Field(0.03, gt=0)
    momentum: float = Field(0.999, ge=0, lt=1)
    momentum_inference: bool = False


class SLAVC(nn.Module):
    """Simultaneous localization and audio-visual correspondence (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634).

    The score of image i with sound j is log Σ_x p(j | i, x) · p(x | i, j): the first head gives
    the sound that a cell corresponds to (softmax over the batch's sounds), the second the cell of a sound (softmax over
    cells). The loss is the sum of two cross-entropies over sounds: of images with the momentum encoders' sounds, and of
    the momentum encoders' images with sounds.

    Deviation: samples of one recording are no negatives of each other.
    """

    def __init__(self, config: SLAVCConfig) -> None:
        super().__init__()
        self.config = config
        self.needs = Needs(heads=2, momentum=config.momentum, momentum_inference=config.momentum_inference)

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of one view; ``image_to_sound`` and ``sound_to_image`` name the trained side first.

        Raises:
            ValueError: the output has none of momentum encoders.
        """
        (online,) = views
        target = online.momentum
        if target is None:
            raise ValueError("SLAVC needs the momentum encoders' output of the view")
        rows = torch.arange(len(online.visual), device=online.visual.device)
        losses = []
        for image, sound in ((online, target), (target, online)):
            correspond, localize = (
                all_similarity_maps(seen.visual, heard.audio)
                for seen, heard in zip(image.heads, sound.heads, strict=True)
            )
            losses.append(
                F.cross_entropy(joint_scores(correspond, localize, self.config.temperature, online.recording), rows)
            )
        trained_image, trained_sound = losses
        parts = {"image_to_sound": trained_image.detach(), "sound_to_image": trained_sound.detach()}
        return LossTerms(trained_image + trained_sound, parts)
