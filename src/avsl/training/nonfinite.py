"""Handling of steps whose loss or gradient is not finite."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from avsl.distributed import gather
from avsl.training.errors import NonFiniteError, TrainingError
from avsl.training.module import SemiModule
from avsl.types import KeepsLabels


class NonFiniteGuard(Callback):
    """Ends the training at a step that is not finite, or skips such a step.

    Whether a step is finite is computed on the device. Reading the result waits for the device, so it is read after
    each step on a CPU only, and elsewhere before checkpoints and validations.

    Args:
        mode: ``stop`` or ``skip``.
        loss_limit: a loss with a larger absolute value counts as not finite.
    """

    def __init__(self, mode: Literal["stop", "skip"], loss_limit: float) -> None:
        self._skips = mode == "skip"
        self._limit = loss_limit
        # The first step that was not finite, -1 for none.
        self._first = torch.tensor(-1)
        # Tensors that a step changes besides the optimizer, and their previous values.
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy the students' batch-norm statistics and all averages."""
        if self._skips:
            state = _module(pl_module).state_dict(keep_vars=True).items()
            tensors = [t for name, t in state if name.startswith(("framework.", "exported.")) and isinstance(t, Tensor)]
            self._before = [(tensor, tensor.clone()) for tensor in tensors if not tensor.requires_grad]

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Check the loss of all training processes."""
        sound = loss.detach().abs() <= self._limit  # NaN is not
        _module(pl_module).finite = gather(sound.float().unsqueeze(0)).amin(0) > 0

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradient."""
        module = _module(pl_module)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        module.finite = module.finite & torch.nn.utils.get_total_norm(gradients, foreach=True).isfinite()
        if self._skips:
            # A fused optimizer reads this on the device and takes no step if it is 1.
            optimizer.found_inf = (~module.finite).float()  # type: ignore[attr-defined]
        else:
            first = self._first.to(module.finite.device)
            self._first = torch.where(module.finite | (first >= 0), first, module.step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo a skipped step before a checkpoint can be written."""
        module = _module(pl_module)
        if not self._skips:
            if module.device.type == "cpu":
                self.check()
            return
        for tensor, before in self._before:
            tensor.copy_(torch.where(module.finite, tensor, before))
        # These labels are in host memory, so this framework's steps wait for the device.
        if isinstance(module.framework, KeepsLabels) and not bool(module.finite):
            module.framework.undo()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Check the steps of the epoch, because a network without finite weights cannot be validated.

        Raises:
            TrainingError: a step was not finite, or all steps were skipped.
        """
        self.check()
        module = _module(pl_module)
        if self._skips and float(module.skipped.compute()) == trainer.num_training_batches:
            raise TrainingError(f"no step was finite in the epoch that ended with step {module.step}")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the steps of an epoch that has no validation."""
        if not trainer.val_dataloaders:
            self.on_validation_start(trainer, pl_module)

    def check(self) -> None:
        """Wait for the device and check all steps so far.

        Raises:
            NonFiniteError: a step was not finite, and such steps are not skipped.
        """
        if (step := int(self._first)) >= 0:
            raise NonFiniteError(step)


def _module(module: lightning.LightningModule) -> SemiModule:
    if not isinstance(module, SemiModule):
        raise TypeError("NonFiniteGuard guards a SemiModule")
    return module
