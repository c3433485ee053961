"""Averages of trained networks, which are validated and exported in their place."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from avsl.functional.ema import ema_update, half_life_decay


class ExportedAverages(nn.Module):
    """Averages the weights of the networks that a framework exports, whatever the framework.

    Teachers and momentum encoders are averages already and are exported as they are. Without this, a comparison of a
    mean teacher with a framework that exports its student would measure the averaging as well.

    Args:
        models: the networks that the framework exports.
        half_life: steps after which a network's weight in its average has halved; 0 exports the last weights.
    """

    def __init__(self, models: Sequence[nn.Module], half_life: float) -> None:
        super().__init__()
        self._decay = half_life_decay(half_life) if half_life else 0.0
        trained = [half_life > 0 and any(p.requires_grad for p in model.parameters()) for model in models]
        # A tuple, which does not register the networks a second time.
        self._models = tuple(zip(models, trained, strict=True))
        self.averages = nn.ModuleList(
            copy.deepcopy(model).requires_grad_(False).eval() for model, average in self._models if average
        )

    def train(self, mode: bool = True) -> ExportedAverages:
        """Stay in evaluation mode."""
        return self

    def update(self) -> None:
        """Update the averages after the optimizer's step."""
        trained = [model for model, average in self._models if average]
        for average, model in zip(self.averages, trained, strict=True):
            ema_update(average, model, self._decay)

    def models(self) -> list[nn.Module]:
        """The networks to validate and export, in the framework's order."""
        averages = iter(self.averages)
        return [next(averages) if average else model for model, average in self._models]
