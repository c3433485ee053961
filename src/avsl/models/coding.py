"""SSPL's predictive coding module: visual features are aligned with the audio code."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.schema import StrictConfig


class PredictiveCodingConfig(StrictConfig):
    """The predictive coding module; the defaults are the published ones.

    Attributes:
        cycles: recursive cycles after the initialization.
        width: channels of the inner representations.
    """

    cycles: int = Field(4, ge=1)
    width: int = Field(512, ge=1)


class PredictiveCoding(nn.Module):
    """Predictive coding module (Song et al., SSPL, CVPR 2022, arXiv 2203.13412, section 3.3).

    Three layers of representations, on the visual grid, half of it and a quarter of it, stand above the audio code. Top
    down, each layer predicts the one below (the coarsest predicts the code); bottom up, the errors of the predictions
    correct it. Rates: ``down`` (b, the weight of a prediction in a representation) and ``up`` (a, the step along an
    error), one for each channel, learned, never negative.

    Args:
        config: size of the module.
        dim: channels of the visual features, in and out.
        code_dim: width of the audio code.
    """

    def __init__(self, config: PredictiveCodingConfig, dim: int, code_dim: int) -> None:
        super().__init__()
        width, cycles = config.width, config.cycles
        self.cycles = cycles
        # Layer 0 is the coarsest, layer 2 the visual grid.
        self.predict_code = nn.Conv2d(width, code_dim, 1)
        self.predict = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.Conv2d(dim, width, 3, padding=1, bias=False)]
        )
        self.correct = nn.ModuleList(
            [
                nn.ConvTranspose2d(code_dim, width, 1, bias=False),
                nn.ConvTranspose2d(width, width, 3, stride=2, bias=False),
                nn.ConvTranspose2d(width, dim, 3, padding=1, bias=False),
            ]
        )
        self.output = nn.ConvTranspose2d(dim, dim, 1)
        widths = (width, width, dim)
        self.down = nn.ParameterList(nn.Parameter(torch.full((1, n, 1, 1), 0.5)) for n in widths)
        self.up = nn.ParameterList(nn.Parameter(torch.ones(1, n, 1, 1)) for n in widths)
        # Separate norms for the initialization (cycle 0) and for each cycle, in the order of the cycles.
        self.norm_down = nn.ModuleList(nn.BatchNorm2d(n) for _ in range(cycles + 1) for n in widths[:2])
        self.norm_up = nn.ModuleList(nn.BatchNorm2d(n) for _ in range(cycles + 1) for n in widths)

    def forward(self, visual: Tensor, code: Tensor) -> Tensor:
        """(B, dim, h, w) visual features and (B, code_dim) audio code to (B, dim, h, w) aligned features."""
        middle = F.gelu(self.norm_down[1](self._predict(1, visual)))
        predictions = [F.gelu(self.norm_down[0](self._predict(0, middle))), middle, visual]
        layers = self._feed_forward(predictions, predictions, code, 0)
        for cycle in range(1, self.cycles + 1):
            layers[2] = F.gelu(_mix(layers[2], visual, self.down[2]))
            for k in (1, 0):
                predictions[k] = self._predict(k, layers[k + 1])
                mixed = _mix(layers[k], predictions[k], self.down[k])
                layers[k] = F.gelu(self.norm_down[2 * cycle + k](mixed))
            layers = self._feed_forward(layers, predictions, code, cycle)
        aligned: Tensor = self.output(layers[2])
        return aligned

    def _predict(self, k: int, above: Tensor) -> Tensor:
        """The prediction of layer k from layer k + 1, on half the grid."""
        return F.max_pool2d(self.predict[k](above), 2)

    def _feed_forward(self, layers: list[Tensor], predictions: list[Tensor], code: Tensor, cycle: int) -> list[Tensor]:
        """Correct each layer by the prediction error of the layer below; the lowest layer is the code."""
        heard = code - F.gelu(self.predict_code(layers[0])).mean((-2, -1))
        error = heard[..., None, None].expand(-1, -1, *layers[0].shape[-2:])
        corrected: list[Tensor] = []
        for k, layer in enumerate(layers):
            if k == 2:
                error = F.interpolate(error, size=layer.shape[-2:], mode="bilinear", align_corners=True)
            # The published grids (3, 7, 14) fit exactly; on others the transposed convolution is one cell too large.
            step = self.correct[k](error)[..., : layer.shape[-2], : layer.shape[-1]]
            corrected.append(F.gelu(self.norm_up[3 * cycle + k](layer + F.relu(self.up[k]) * step)))
            error = corrected[k] - predictions[k]
        return corrected


def _mix(held: Tensor, prediction: Tensor, rate: Tensor) -> Tensor:
    """Move a representation towards its prediction, in the rate's precision, because autocast may mix precisions."""
    return torch.lerp(held.to(rate.dtype), prediction.to(rate.dtype), F.relu(rate))
