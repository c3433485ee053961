"""Supervised learning on the labeled clips, with the objective on all clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import nn

from avsl.frameworks.branch import Branch, MakeBranch, forward_together, supervised_loss, weighted_sum
from avsl.schema import StrictConfig
from avsl.types import SemiBatch, StepOutput


class SupervisedConfig(StrictConfig):
    """Supervised learning.

    Attributes:
        contrastive_weight: λ_c of the objective on L ∪ U; 0 trains on labeled clips only.
    """

    contrastive_weight: float = Field(1.0, ge=0)


class Supervised(nn.Module):
    """L = H(G, P) on L + λ_c · L_contrastive on L ∪ U."""

    student: Branch
    needs_weak_view = False
    uses_labels = True

    def __init__(self, make_branch: MakeBranch, config: SupervisedConfig) -> None:
        super().__init__()
        self.config = config
        self.student = make_branch(0)
        self.n_views = self.student.needs.views
        self.uses_unlabeled = config.contrastive_weight > 0

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step."""
        outputs, labeled, _ = forward_together(self.student, batch)
        terms = [(1.0, "supervised", supervised_loss(labeled, batch.labeled.strong[0]))]
        if self.config.contrastive_weight > 0:
            terms.append((self.config.contrastive_weight, "contrastive", self.student.contrastive(outputs, step).total))
        return StepOutput(weighted_sum(terms))

    def after_step(self, step: int) -> None:
        """Update the momentum encoders, if the objective has them."""
        self.student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The student."""
        return [self.student.inference_model()]
