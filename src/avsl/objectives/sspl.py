"""SSPL: predictive learning on two views, without negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.functional.contrastive import similarity_maps
from avsl.schema import ConfigError, StrictConfig
from avsl.types import AVOutput, LossTerms, Needs


class SSPLConfig(StrictConfig):
    """SSPL's settings; the defaults are the published ones.

    Attributes:
        dim: width of the localizer's embeddings, the input of the head.
        hidden: width of the projector's layers and of the outputs of projector and predictor.
        bottleneck: width of the predictor's hidden layer.
        lr_scale: the head's learning rate as a multiple of the network's: 2.5 with the predictive coding module (5e-5
            to 2e-5), 4 without it (2e-3 to 5e-4).
    """

    LINKS: ClassVar[Mapping[str, str]] = {"dim": "${model.dim}"}

    dim: int = Field(512, ge=1)
    hidden: int = Field(2048, ge=1)
    bottleneck: int = Field(512, ge=1)
    lr_scale: float = Field(2.5, gt=0)


class SSPL(nn.Module):
    """Self-supervised predictive learning (Song et al., CVPR 2022, arXiv 2203.13412, section 3).

    The features of each of two views of a frame are pooled with its attention map; a SimSiam head (Chen & He, CVPR
    2021, arXiv 2011.10566) predicts each view's projection from the other's. The predictive coding module is part of
    the localizer (``model.coding``), whose features are the input here. Only the first head of a localizer is used.
    """

    def __init__(self, config: SSPLConfig) -> None:
        super().__init__()
        self.config = config
        self.needs = Needs(views=2, lr_scale=config.lr_scale)
        dim, hidden, bottleneck = config.dim, config.hidden, config.bottleneck
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(hidden, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(),
            nn.Linear(bottleneck, hidden),
        )

    def forward(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of two views; its part ``predictive`` is -1 if each view predicts the other perfectly.

        Raises:
            ConfigError: the features are not ``dim`` wide.
        """
        first, second = (self.projector(self._pool(view)) for view in views)
        loss = simsiam_loss(self.predictor(first), self.predictor(second), first, second)
        return LossTerms(loss, {"predictive": loss.detach()})

    def _pool(self, view: AVOutput) -> Tensor:
        width = view.features.shape[1]
        if width != self.config.dim:
            raise ConfigError(f"key 'objective.sspl.dim' = {self.config.dim}: the model's features are {width} wide")
        similarity = similarity_maps(view.visual, view.audio)
        return attention_pool(view.features.to(similarity.dtype), similarity)


def attention(similarity: Tensor) -> Tensor:
    """Normalize each of (B, h, w) similarity maps to [0, 1]; a constant map becomes 0."""
    low, high = similarity.amin((-2, -1), keepdim=True), similarity.amax((-2, -1), keepdim=True)
    return (similarity - low) / (high - low + 1e-10)


def attention_pool(features: Tensor, similarity: Tensor) -> Tensor:
    """The sum of (B, C, h, w) features over the grid, weighted by the attention of (B, h, w) similarity: (B, C)."""
    return (features * attention(similarity).unsqueeze(1)).sum((-2, -1))


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """The negative cosine of each view's prediction and the other's projection z, which gets no gradient; (B, D) each.

    Chen & He, CVPR 2021, arXiv 2011.10566, eq. 2-4; in [-1, 1].
    """
    one = F.cosine_similarity(p1, z2.detach(), dim=1)
    other = F.cosine_similarity(p2, z1.detach(), dim=1)
    return -(one + other).mean() / 2
