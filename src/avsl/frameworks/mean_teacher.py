"""Mean teacher: one student, one averaged teacher that labels for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from avsl.frameworks.branch import (
    Branch,
    MakeBranch,
    Teacher,
    forward_together,
    pseudo_label_loss,
    supervised_loss,
    unlabelled_views,
    weighted_sum,
)
from avsl.functional.ema import ema_update
from avsl.functional.geometry import carry
from avsl.functional.pseudo_labels import confident_mask, not_empty
from avsl.schema import StrictConfig
from avsl.types import AVBatch, PseudoLabels, SemiBatch, StepOutput


class MeanTeacherConfig(StrictConfig):
    """Mean teacher.

    Attributes:
        delta: δ, confidence from which the teacher calls a cell sounding.
        ema_decay: β of the teacher.
        unlabelled_weight: λ_u of the loss on pseudo-labels.
        contrastive_weight: λ_c of the objective on L ∪ U.
        warmup_steps: steps on the labelled clips (and the objective) before pseudo-labels are used.
    """

    delta: float = Field(0.6, ge=0, le=1)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    unlabelled_weight: float = Field(1.0, ge=0)
    contrastive_weight: float = Field(1.0, ge=0)
    warmup_steps: int = Field(200, ge=0)


class MeanTeacher(nn.Module):
    """Mean teacher for localisation (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780).

    L = H(G, P) on L + λ_u · H(Y, P) on accepted U + λ_c · L_contrastive on L ∪ U, with Y = 1[P_teacher ≥ δ] on the
    weak view, accepted where it is not empty. Deviation: hard labels at a threshold, as in DMT, of which this is the
    one-pair control.
    """

    student: Branch
    teacher: Teacher
    needs_weak_view = True
    uses_labels = True
    uses_unlabelled = True

    def __init__(self, make_branch: MakeBranch, config: MeanTeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.student = make_branch(0)
        self.n_views = self.student.needs.views
        self.teacher = Teacher(self.student)

    @torch.no_grad()
    def label(self, weak: AVBatch) -> PseudoLabels:
        """The teacher's labels of weakly augmented, unlabelled rows."""
        mask = confident_mask(self.teacher(weak).confidence, self.config.delta)
        return PseudoLabels(mask, accepted=not_empty(mask))

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """The loss of one step."""
        config = self.config
        outputs, labelled, unlabelled = forward_together(self.student, batch)
        terms = [
            (1.0, "supervised", supervised_loss(labelled, batch.labelled.strong[0])),
            (config.contrastive_weight, "contrastive", self.student.contrastive(outputs, step).total),
        ]
        pseudo, views = None, unlabelled_views(batch)
        if step >= config.warmup_steps and views is not None and unlabelled is not None:
            weak, strong = views
            pseudo = self.label(weak)
            target, seen = carry(pseudo.mask, weak.geometry, strong.geometry)
            loss = pseudo_label_loss(unlabelled, target, seen, pseudo.accepted)
            terms.append((config.unlabelled_weight, "unlabelled", loss))
        return StepOutput(weighted_sum(terms), pseudo)

    def after_step(self, step: int) -> None:
        """EMA; until the warm-up ends the teacher is the student's copy."""
        decay = self.config.ema_decay if step >= self.config.warmup_steps else 0.0
        ema_update(self.teacher.model, self.student.model, decay)
        self.student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The student's parameters."""
        return self.student.param_groups()

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher."""
        return [self.teacher.model]
