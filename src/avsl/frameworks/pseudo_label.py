"""Pseudo-labeling: a network is trained on its own hard labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from avsl.frameworks.branch import Branch, HardLabelConfig, MakeBranch, hard_label_step, predict_in_eval_mode
from avsl.types import SemiBatch, StepOutput


class PseudoLabelConfig(HardLabelConfig):
    """Pseudo-labeling; the labeler is the student."""


class PseudoLabel(nn.Module):
    """Single hard pseudo-label (Lee, ICML workshop 2013; weak view to strong as in FixMatch, arXiv 2001.07685).

    L = H(G, P) on L + λ_u · H(Y, P) on accepted U + λ_c · L_contrastive on L ∪ U, with Y = 1[P ≥ δ] of the student
    itself on the weak view, in evaluation mode, accepted where it is not empty. Deviation: one threshold for "sounding"
    and none for "silent", as in DMT and the mean teacher, of which this is the control without a teacher.
    """

    student: Branch
    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: PseudoLabelConfig) -> None:
        super().__init__()
        self.config = config
        self.student = make_branch(0)
        self.n_views = self.student.needs.views

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step."""
        return hard_label_step(self.student, partial(predict_in_eval_mode, self.student), batch, step, self.config)

    def after_step(self, step: int) -> None:
        """Update the momentum encoders, if the objective has them."""
        self.student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The student."""
        return [self.student.inference_model()]
