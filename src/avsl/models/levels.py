"""Levels of frames: pretrained weights need the mean and standard deviation of their training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from avsl.functional.image import MEAN, STD
from avsl.models.weights.pretrained import PRETRAINED
from avsl.schema import StrictConfig

_Positive = Annotated[float, Field(gt=0)]


class LevelsConfig(StrictConfig):
    """Weights of an image network and the levels of the frames that they were trained on.

    Attributes:
        weights: a name of pretrained weights, a safetensors file of ImageNet weights, or ``timm`` for timm's own
            download; empty starts from scratch.
        mean: of the channels of the frames that the weights were trained on, in [0, 1]; ImageNet's, or those of named
            weights.
        std: their standard deviation.
    """

    weights: str = ""
    mean: tuple[float, float, float] = MEAN
    std: tuple[_Positive, _Positive, _Positive] = STD

    @model_validator(mode="before")
    @classmethod
    def _with_levels(cls, section: Any) -> Any:
        """Set mean and standard deviation from named weights, so that an export without the name keeps them."""
        if not isinstance(section, Mapping) or section.get("weights") not in PRETRAINED:
            return section
        weights = PRETRAINED[section["weights"]]
        return {"mean": weights.mean, "std": weights.std} | dict(section)


class Levels(nn.Module):
    """Frames (B, 3, H, W) normalized with ImageNet's levels to frames normalized with a network's."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: LevelsConfig) -> None:
        super().__init__()
        mean, std, own_mean, own_std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD, config.mean, config.std))
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)
        self.own = (config.mean, config.std) != (MEAN, STD)

    def forward(self, frames: Tensor) -> Tensor:
        """Convert the levels of frames; a network with ImageNet's levels gets them unchanged."""
        return frames * self.scale + self.shift if self.own else frames
