"""Two mean teachers that never meet: the control of every framework that exports two localizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from avsl.frameworks.branch import HardLabelConfig, MakeBranch, Teacher, hard_label_step
from avsl.functional.ema import ema_update, half_life_decay
from avsl.schema import Steps
from avsl.types import LossTerms, SemiBatch, StepOutput


class MeanTeacherPairConfig(HardLabelConfig):
    """Two independent mean teachers.

    Attributes:
        ema_half_life: steps after which a student's weight in the average has halved; below 1 a share of the training.
        ema_decay: β of the teachers, in place of the one that ``ema_half_life`` gives; None for that.
    """

    SPACE: ClassVar[Mapping[str, Any]] = {
        **HardLabelConfig.SPACE,
        "ema_half_life": {"kind": "log", "low": 0.01, "high": 0.2},
    }

    ema_half_life: Steps = Field(0.04, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1)


class MeanTeacherPair(nn.Module):
    """Two mean teachers (arXiv 1703.01780) trained side by side and averaged in the exported model.

    Each teacher labels its own student alone: L = Σ_k of the mean teacher's loss. No paper's method. It has DMT's
    networks, start weights and cost, but neither its consensus filter nor its intersection of pseudo-labels, so DMT's
    difference from it is what these two add to the average of two networks.
    """

    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: MeanTeacherPairConfig) -> None:
        super().__init__()
        self.config = config
        self.decay = half_life_decay(config.ema_half_life) if config.ema_decay is None else config.ema_decay
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
        decay = self.decay if step >= self.config.warmup_steps else 0.0
        for student, teacher in self.pairs:
            ema_update(teacher.model, student.model, decay)
            student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """Both students' parameters."""
        return [group for student, _ in self.pairs for group in student.param_groups()]

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher pair."""
        return [teacher.model for _, teacher in self.pairs]
