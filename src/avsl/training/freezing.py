"""Trunks that stay as they were loaded in a training's first steps."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from avsl.models.encoding import Encoder
from avsl.training.optimizer import trunk_parameters


class TrunkFreezing(Callback):
    """Holds the weights and statistics of encoders' trunks while the heads above them find their direction.

    Args:
        steps: optimizer steps for which trunks are held.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._held = False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hold the trunks, or let them go."""
        held = batch.step < self._steps
        if held == self._held:
            return
        self._held = held
        for encoder in pl_module.modules():
            if isinstance(encoder, Encoder):
                encoder.hold(held)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Leave held trunks out of the clipping and of the optimizer's step.

        Their gradients are computed all the same, because training processes exchange those of all parameters.
        """
        if self._held:
            for parameter in trunk_parameters(pl_module):
                parameter.grad = None
