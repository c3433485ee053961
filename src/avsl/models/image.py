"""Image encoders: frame to a grid of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.models.backbone import make_feature_network
from avsl.models.encoding import Encoder
from avsl.models.levels import Levels, LevelsConfig
from avsl.schema import ConfigError
from avsl.types import Outputs


class ImageEncoderConfig(LevelsConfig):
    """A timm network on frames.

    Attributes:
        backbone: name of any timm network with feature maps.
        backbone_args: arguments for timm, such as widths.
        stages: indices of the used feature maps; several are merged top-down on the finest grid.
        dropout: share of the features dropped in training before the projection.
        project: whether to add 1×1 convolutions, which LVS and SSPL do not have.
        last_stride: stride of a ResNet's last stage; 1 doubles its grid without dilation (LVS).
        before_activation: whether a network without residuals ends before its last ReLU (SSPL's VGG-16).
        frozen: whether the backbone is not trained.
    """

    backbone: str = "resnet18"
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[int, ...] = Field((4,), min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    project: bool = True
    last_stride: Literal[1, 2] = 2
    before_activation: bool = False
    frozen: bool = False


class ImageEncoder(Encoder):
    """Frames (B, 3, H, W) to embeddings (B, dim, h, w), not normalized.

    Several stages are merged as in a feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144): 1×1 convolutions
    give them one width, and coarser maps are enlarged and added.
    """

    TRUNK = ("backbone",)

    def __init__(self, config: ImageEncoderConfig, dim: int) -> None:
        super().__init__(config)
        # Two students may need different normalizations of the same frames.
        self.levels = Levels(config)
        self.backbone, widths = make_feature_network(
            "model.image",
            config.backbone,
            config.weights,
            last_stride=config.last_stride,
            out_indices=tuple(sorted(config.stages)),
            **config.backbone_args,
        )
        if config.weights == "timm":
            _check_levels(config)
        if config.before_activation:
            name, last = list(self.backbone.named_children())[-1]
            if not isinstance(last, nn.ReLU):
                raise ConfigError(f"model.image.before_activation: {config.backbone} does not end in a ReLU")
            setattr(self.backbone, name, nn.Identity())
        self.freeze_if_asked()
        if not config.project and widths != [dim]:
            raise ConfigError(f"model.image.project: {config.backbone} has {widths} channels, not {dim}")
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, 1) if config.project else nn.Identity() for width in widths)
        self.dropout = nn.Dropout(config.dropout)

    def inputs_from(self) -> Sequence[object]:
        """The conversion of levels."""
        return (self.levels,)

    def trunk(self, inputs: Tensor) -> Outputs:
        """Frames (B, 3, H, W), normalized as :func:`avsl.functional.image.normalize` does, to maps of each stage."""
        return tuple(self.backbone(self.levels(inputs)))

    def merge(self, stages: Outputs) -> Tensor:
        """The trunk's maps, (B, C, h, w) of each stage, to (B, dim, h, w)."""
        maps: list[Tensor] = [lateral(self.dropout(x)) for lateral, x in zip(self.lateral, stages, strict=True)]
        merged = maps.pop()
        while maps:
            finer = maps.pop()
            merged = finer + F.interpolate(merged, size=finer.shape[-2:], mode="nearest")
        return merged

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W), normalized, to (B, dim, h, w)."""
        return self.merge(self.trunk(frames))


def _check_levels(config: ImageEncoderConfig) -> None:
    """Refuse another mean or standard deviation than timm's weights were trained with."""
    import timm

    wanted: Any = timm.get_pretrained_cfg(config.backbone)
    if (tuple(wanted.mean), tuple(wanted.std)) != (config.mean, config.std):
        raise ConfigError(
            f"model.image.mean and model.image.std: timm's weights of {config.backbone} want "
            f"{list(wanted.mean)} and {list(wanted.std)}"
        )
