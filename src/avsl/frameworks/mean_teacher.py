"""Mean teacher: one student, labeled by its averaged teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from avsl.frameworks.branch import Branch, HardLabelConfig, MakeBranch, Teacher, hard_label_step
from avsl.functional.ema import ema_update, half_life_decay
from avsl.schema import Steps
from avsl.types import SemiBatch, StepOutput


class MeanTeacherConfig(HardLabelConfig):
    """Mean teacher.

    Attributes:
        ema_half_life: steps after which a student's weight in the average has halved; below 1 a share of the training.
        ema_decay: β of the teacher, in place of the one that ``ema_half_life`` gives; None for that.
    """

    SPACE: ClassVar[Mapping[str, Any]] = {
        **HardLabelConfig.SPACE,
        "ema_half_life": {"kind": "log", "low": 0.01, "high": 0.2},
    }

    ema_half_life: Steps = Field(0.04, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1)


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
        self.decay = half_life_decay(config.ema_half_life) if config.ema_decay is None else config.ema_decay
        self.student = make_branch(0)
        self.n_views = self.student.needs.views
        self.teacher = Teacher(self.student)

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step."""
        return hard_label_step(self.student, self.teacher, batch, step, self.config)

    def after_step(self, step: int) -> None:
        """Update the teacher, which is a copy of the student until the warm-up ends."""
        decay = self.decay if step >= self.config.warmup_steps else 0.0
        ema_update(self.teacher.model, self.student.model, decay)
        self.student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher."""
        return [self.teacher.model]
