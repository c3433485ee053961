"""The object prior of object-guided localization: a map of object-like regions from an ImageNet network."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from avsl.models.backbone import make_feature_network
from avsl.models.levels import Levels, LevelsConfig


class ObjectPriorConfig(LevelsConfig):
    """Object-guided localization (OGL); the defaults are the published ones.

    Attributes:
        weights: weights of ``backbone``, as for an image encoder.
        alpha: share of the audio-visual map in the mixture with the object map.
        backbone: name of any timm network with feature maps.
    """

    weights: str = Field(min_length=1)
    alpha: float = Field(0.4, ge=0, le=1)
    backbone: str = "resnet18"


class ObjectPrior(nn.Module):
    """Frames (B, 3, H, W) to object maps (B, h, w): the mean absolute activation of the last stage.

    As in EZ-VSL (Mo & Morgado, ECCV 2022, arXiv 2203.09324, section 3.3): an ImageNet ResNet-18, which
    is not trained and always in evaluation mode.

    Raises:
        ConfigError: the network cannot be built, or its weights cannot be read.
    """

    def __init__(self, config: ObjectPriorConfig) -> None:
        super().__init__()
        self.config = config
        network, _ = make_feature_network("evaluate.ogl", config.backbone, config.weights, out_indices=(-1,))
        self.levels = Levels(config)
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ObjectPrior:
        """Stay in evaluation mode."""
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Compute object maps, at least 0, of normalized frames."""
        (features,) = self.network(self.levels(frames))
        activation: Tensor = features.abs().mean(1)
        return activation
