"""Mean teacher: one student, labeled by its averaged teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from avsl.frameworks.branch import Branch, MakeBranch, Teacher, TeacherConfig, hard_label_step, update_teachers
from avsl.types import SemiBatch, StepOutput


class MeanTeacherConfig(TeacherConfig):
    """Mean teacher."""


class MeanTeacher(nn.Module):
    """Mean teacher for localization (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780).

    L = H(G, P) on L + λ_u · H(Y, P) on accepted U + λ_c · L_contrastive on L ∪ U, with Y = 1[P_teacher ≥ δ] on the
    weak view, accepted where it is not empty. Deviation: hard labels at a threshold, as in DMT, of which this is the
    one-pair control.
    """

    student: Branch
    teacher: Teacher
    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: MeanTeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.student = make_branch(0)
        self.n_views = self.student.needs.views
        self.teacher = Teacher(self.student)

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step."""
        return hard_label_step(self.student, self.teacher, batch, step, self.config)

    def after_step(self, step: int) -> None:
        """Update the teacher, which is a copy of the student until the warm-up ends."""
        update_teachers([(self.student, self.teacher)], step, self.config)

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher."""
        return [self.teacher.model]
