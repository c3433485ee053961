"""Errors that end a training."""

from __future__ import annotations

from avsl.errors import AvslError


class TrainingError(AvslError):
    """A training that cannot continue; the message is one sentence."""


class NonFiniteError(TrainingError):
    """A loss or a gradient that is not finite, or a loss that has exploded.

    Attributes:
        step: the first such step.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss or its gradient is not finite, or beyond trainer.loss_limit, in step {step}")
        self.step = step
