"""Two independent mean teachers: the control of every framework that exports two localizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from avsl.frameworks.branch import MakeBranch, Teacher, TeacherConfig, hard_label_step, update_teachers
from avsl.types import LossTerms, SemiBatch, StepOutput


class MeanTeacherPairConfig(TeacherConfig):
    """Two independent mean teachers."""


class MeanTeacherPair(nn.Module):
    """Two mean teachers (arXiv 1703.01780) trained side by side and averaged in the exported model.

    Each teacher labels its own student alone: L = Σ_k of the mean teacher's loss. No paper proposes this; it is a
    control. It has DMT's networks, start weights and cost, but neither its consensus filter nor its intersection of
    pseudo-labels, so DMT's difference from it is what these two add to the average of two networks.
    """

    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: MeanTeacherPairConfig) -> None:
        super().__init__()
        self.config = config
        students = [make_branch(0), make_branch(1)]
        self.n_views = students[0].needs.views
        self.pairs = [(student, Teacher(student)) for student in students]
        self.students = nn.ModuleList(students)
        self.teachers = nn.ModuleList(teacher for _, teacher in self.pairs)

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step of both students; the pseudo-labels returned are the first teacher's."""
        first, second = (hard_label_step(student, teacher, batch, step, self.config) for student, teacher in self.pairs)
        named = [("a", first.loss), ("b", second.loss)]
        parts = {f"{name}_{which}": part for which, loss in named for name, part in loss.parts.items()}
        return StepOutput(LossTerms(first.loss.total + second.loss.total, parts), first.pseudo)

    def after_step(self, step: int) -> None:
        """Update both teachers, which are copies of their students until the warm-up ends."""
        update_teachers(self.pairs, step, self.config)

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """Both students' parameters."""
        return [group for student, _ in self.pairs for group in student.param_groups()]

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher pair."""
        return [teacher.model for _, teacher in self.pairs]
