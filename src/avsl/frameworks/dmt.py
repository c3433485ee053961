"""DMT: dual mean-teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from avsl.frameworks.branch import (
    HardLabelConfig,
    MakeBranch,
    Teacher,
    TeacherConfig,
    forward_together,
    pseudo_label_loss,
    supervised_loss,
    unlabeled_views,
    update_teachers,
    weighted_sum,
)
from avsl.functional.geometry import transfer_labels
from avsl.functional.pseudo_labels import confident_mask, consensus
from avsl.types import AVBatch, PseudoLabels, SemiBatch, StepOutput


class DMTConfig(TeacherConfig):
    """DMT. The paper states none of these values; a sweep can search each.

    Attributes:
        tau: τ, IoU of the two teachers' masks from which a clip is accepted.
        target: Y, the pseudo-label; the method is the ``intersection`` of the two masks, its ablations are their
            ``union`` and the mask of the ``first`` teacher.
    """

    # In the order in which a sweep samples them.
    SPACE: ClassVar[Mapping[str, Any]] = {
        "delta": HardLabelConfig.SPACE["delta"],
        "tau": {"kind": "float", "low": 0.1, "high": 0.8},
        "ema_half_life": TeacherConfig.SPACE["ema_half_life"],
        **HardLabelConfig.SPACE,
    }

    tau: float = Field(0.5, ge=0, le=1)
    target: Literal["intersection", "union", "first"] = "intersection"


class DMT(nn.Module):
    """Dual mean-teacher (Guo et al., NeurIPS 2023, arXiv 2403.03145).

    Two independent student-teacher pairs. Both teachers label the weak view, M_k = 1[P_k ≥ δ]; a clip is accepted iff
    IoU(M_A, M_B) ≥ τ and the masks overlap; Y = M_A · M_B teaches both students on the strong view:
    Σ_k H(G, P_k) on L + λ_u · H(Y, P_k) on accepted U + λ_c · L_contrastive(k) on L ∪ U. Teachers are averages of their
    students (β), copies until the warm-up ends; the exported model is the teacher pair.

    The paper leaves open, and chosen here are: the unlabeled term is a mean over all unlabeled samples, in which
    rejected ones count 0; the objective uses L ∪ U during the warm-up; cells outside the weak view have no label.
    """

    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: DMTConfig) -> None:
        super().__init__()
        self.config = config
        students = [make_branch(0), make_branch(1)]
        self.n_views = students[0].needs.views
        self.pairs = [(student, Teacher(student)) for student in students]
        self.students = nn.ModuleList(students)
        self.teachers = nn.ModuleList(teacher for _, teacher in self.pairs)

    @torch.no_grad()
    def label(self, weak: AVBatch) -> PseudoLabels:
        """Label the weak view of unlabeled samples: the teachers' masks, filtered by their consensus."""
        maps = [teacher(weak).confidence for _, teacher in self.pairs]
        if maps[1].shape != maps[0].shape:
            maps[1] = F.interpolate(maps[1].unsqueeze(1), size=maps[0].shape[-2:], mode="bilinear").squeeze(1)
        first, second = (confident_mask(m, self.config.delta) for m in maps)
        accepted, agreement = consensus(first, second, self.config.tau)
        targets = {"intersection": first * second, "union": torch.maximum(first, second), "first": first}
        return PseudoLabels(targets[self.config.target], accepted, agreement)

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step of both students."""
        config = self.config
        pseudo, views = None, unlabeled_views(batch)
        if step >= config.warmup_steps and views is not None:
            weak, strong = views
            pseudo = self.label(weak)
            target, seen = transfer_labels(pseudo.mask, weak.geometry, strong.geometry)
        terms = []
        for name, (student, _) in zip("ab", self.pairs, strict=True):
            outputs, labeled, unlabeled = forward_together(student, batch)
            terms.append((1.0, f"supervised_{name}", supervised_loss(labeled, batch.labeled.strong[0])))
            contrastive = student.contrastive(outputs, step).total
            terms.append((config.contrastive_weight, f"contrastive_{name}", contrastive))
            if pseudo is not None and unlabeled is not None:
                loss = pseudo_label_loss(unlabeled, target, seen, pseudo.accepted)
                terms.append((config.unlabeled_weight, f"unlabeled_{name}", loss))
        return StepOutput(weighted_sum(terms), pseudo)

    def after_step(self, step: int) -> None:
        """Update both teachers, which are copies of their students until the warm-up ends."""
        update_teachers(self.pairs, step, self.config)

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """Both students' parameters."""
        return [group for student, _ in self.pairs for group in student.param_groups()]

    def eval_models(self) -> Sequence[nn.Module]:
        """The teacher pair."""
        return [teacher.model for _, teacher in self.pairs]
