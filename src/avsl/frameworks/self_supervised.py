"""Self-supervised training: the objective alone, on all clips and without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from avsl.frameworks.branch import Branch, MakeBranch, forward_together, weighted_sum
from avsl.schema import StrictConfig
from avsl.types import SemiBatch, StepOutput


class SelfSupervisedConfig(StrictConfig):
    """Self-supervised learning, which has no settings besides the objective's."""


class SelfSupervised(nn.Module):
    """L_contrastive on L ∪ U, without labels.

    The scale and offset of the confidence keep their initial values, because only labels can train them.
    """

    student: Branch
    needs_weak_view = False
    uses_labels = False
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: SelfSupervisedConfig) -> None:
        super().__init__()
        self.student = make_branch(0)
        self.n_views = self.student.needs.views
        for parameter in self.student.calibration():
            parameter.requires_grad_(False)

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step."""
        outputs, _, _ = forward_together(self.student, batch)
        return StepOutput(weighted_sum([(1.0, "contrastive", self.student.contrastive(outputs, step).total)]))

    def after_step(self, step: int) -> None:
        """Update the momentum encoders, if the objective has them."""
        self.student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters without its calibration."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The student."""
        return [self.student.inference_model()]
