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
        # In tuples, because modules as attributes would be registered, and saved, twice.
        self._averaged: tuple[tuple[nn.Module, nn.Module], ...] = ()
        self._models: tuple[nn.Module, ...] = ()
        for model in models:
            if half_life and any(p.requires_grad for p in model.parameters()):
                average = copy.deepcopy(model).requires_grad_(False).eval()
                self._averaged += ((average, model),)
                self._models += (average,)
            else:
                self._models += (model,)
        self.averages = nn.ModuleList(average for average, _ in self._averaged)

    def train(self, mode: bool = True) -> ExportedAverages:
        """Stay in evaluation mode."""
        return self

    def update(self) -> None:
        """Update the averages after the optimizer's step."""
        for average, model in self._averaged:
            ema_update(average, model, self._decay)

    def models(self) -> list[nn.Module]:
        """The networks to validate and export, in the framework's order."""
        return list(self._models)
