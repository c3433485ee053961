"""XPL: cross pseudo-labeling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from avsl.distributed import gather
from avsl.frameworks.branch import (
    MakeBranch,
    forward_together,
    predict_in_eval_mode,
    pseudo_label_loss,
    supervised_loss,
    unlabeled_views,
    weighted_sum,
)
from avsl.frameworks.label_memory import LabelMemory
from avsl.functional.curriculum import Shape, admission_threshold, pace, soft_iou
from avsl.functional.geometry import identity, transfer_labels
from avsl.functional.pseudo_labels import average_labels, sharpen, to_finest_grid
from avsl.schema import ConfigError, Steps, StrictConfig
from avsl.types import AVBatch, PseudoLabels, SemiBatch, StepOutput


class PacingConfig(StrictConfig):
    """The admitted share of unlabeled clips; a ``start`` of 1 means no curriculum.

    Attributes:
        start: share at the first use of pseudo-labels.
        end: share at the end of the curriculum.
        length: steps of the curriculum; below 1 a share of the training.
        shape: ``linear``, ``root`` (fast, then slow) or ``step`` (``start`` until ``length``).
    """

    start: float = Field(0.3, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)
    length: Steps = 0.4
    shape: Shape = "linear"

    @model_validator(mode="after")
    def _share_grows(self) -> Self:
        if self.start > self.end:
            raise ConfigError(f"pacing.start = {self.start} must not be above pacing.end = {self.end}")
        return self


class XPLConfig(StrictConfig):
    """XPL. The paper states none of these values; a sweep can search each.

    Attributes:
        temperature: T of the sharpening; 1 leaves soft labels unchanged.
        label_momentum: m of the labels' average over visits; 0 has no memory.
        cross: whether each peer learns from the other's labels; otherwise from its own labels.
        pacing: curriculum data selection.
        unlabeled_weight: λ_x of the loss on pseudo-labels.
        contrastive_weight: λ_c of the objective on L ∪ U.
        warmup_steps: steps on the labeled clips (and the objective) before pseudo-labels are used; below 1 a share of
            the training.
    """

    SPACE: ClassVar[Mapping[str, Any]] = {
        "temperature": {"kind": "float", "low": 0.2, "high": 1.0},
        "label_momentum": {"kind": "float", "low": 0.0, "high": 0.9},
        "pacing": {
            "start": {"kind": "float", "low": 0.1, "high": 0.8},
            "length": {"kind": "float", "low": 0.1, "high": 0.7},
            "shape": {"kind": "categorical", "values": ["linear", "root", "step"]},
        },
        "unlabeled_weight": {"kind": "log", "low": 0.1, "high": 3.0},
        "contrastive_weight": {"kind": "log", "low": 0.03, "high": 1.0},
        "warmup_steps": {"kind": "float", "low": 0.05, "high": 0.3},
    }

    temperature: float = Field(0.5, gt=0, le=1)
    label_momentum: float = Field(0.5, ge=0, lt=1)
    cross: bool = True
    pacing: PacingConfig = PacingConfig()
    unlabeled_weight: float = Field(1.0, ge=0)
    contrastive_weight: float = Field(1.0, ge=0)
    warmup_steps: Steps = 0.12


class XPL(nn.Module):
    """Cross pseudo-labeling (Guo et al., ICASSP 2024, arXiv 2403.03095).

    Two peers without teachers. Both label the weak view, Q_k = sharpen(P_k, T); each sample's labels are averaged over
    its visits in the frame's geometry, Ŷ_k ← m Ŷ_k + (1 − m) Q_k; on the strong view each peer is trained on the
    other's: Σ_k H(G, P_k) on L + λ_x · [H(Ŷ_B, P_A) + H(Ŷ_A, P_B)] on admitted U + λ_c · Σ_k L_contrastive(k) on L ∪ U.
    The most reliable of all visited samples are admitted; a pacing function sets their share. Both peers are exported.

    The paper leaves open, and chosen here are: reliability is the soft IoU of Ŷ_A and Ŷ_B, ranked among the latest
    values of all samples; peers label in evaluation mode; a weak view updates the cells of which it shows at least
    half, and cells that were never shown have no label; labels have the finer peer's grid; the unlabeled term is a mean
    over all unlabeled samples, in which rejected ones count 0.

    The samples' labels are part of the framework's state. Training processes exchange the labels of their samples, so
    that each ranks and averages as a single process would.
    """

    needs_weak_view = True
    uses_labels = True
    uses_unlabeled = True

    def __init__(self, make_branch: MakeBranch, config: XPLConfig) -> None:
        super().__init__()
        self.config = config
        self.branches = (make_branch(0), make_branch(1))
        self.peers = nn.ModuleList(self.branches)
        self.n_views = self.branches[0].needs.views
        self.labels = LabelMemory(len(self.peers))

    @torch.no_grad()
    def label(self, weak: AVBatch) -> tuple[list[Tensor], Tensor, Tensor]:
        """Update the labels of the samples of a weak view.

        Returns:
            Ŷ_A and Ŷ_B in the frames' geometry, (B, h, w) in [0, 1]; whether each cell has ever been shown, (B, h, w)
            in {0, 1}; the reliability of the labels, (B,) in [0, 1].
        """
        confidences = to_finest_grid([predict_in_eval_mode(student, weak).confidence for student in self.branches])
        maps = [sharpen(confidence, self.config.temperature) for confidence in confidences]
        frame = identity(len(weak), weak.geometry.device)
        transferred, seen = zip(*(transfer_labels(q, weak.geometry, frame) for q in maps), strict=True)
        current = torch.stack(transferred, 1)
        rows = weak.index.cpu().numpy()
        previous = torch.from_numpy(self.labels.read(rows, tuple(current.shape[2:]))).to(current)
        averaged = average_labels(previous, current, seen[0].unsqueeze(1) >= 0.5, self.config.label_momentum)
        known = (~averaged[:, 0].isnan()).to(averaged.dtype)
        labels = list(averaged.nan_to_num(0.0).unbind(1))
        reliability = soft_iou(labels[0], labels[1], known)
        gathered = (gather(weak.index), gather(averaged.half()), gather(reliability))
        self.labels.write(*(tensor.cpu().numpy() for tensor in gathered))
        return labels, known, reliability

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step of both peers, and update the labels of the unlabeled samples."""
        config = self.config
        self.labels.mark()
        pseudo, views = None, unlabeled_views(batch)
        if step >= config.warmup_steps and views is not None:
            weak, strong = views
            labels, known, reliability = self.label(weak)
            pacing = config.pacing
            share = pace(step - config.warmup_steps, pacing.start, pacing.end, pacing.length, pacing.shape)
            admitted = reliability >= admission_threshold(torch.from_numpy(self.labels.reliability), share)
            frame = identity(len(weak), weak.geometry.device)
            mask, _ = transfer_labels((labels[0] + labels[1]) / 2, frame, weak.geometry, known)
            pseudo = PseudoLabels(mask, admitted, reliability)
            if config.cross:
                labels.reverse()
            targets = [transfer_labels(label, frame, strong.geometry, known) for label in labels]
        terms = []
        for k, (name, student) in enumerate(zip("ab", self.branches, strict=True)):
            outputs, labeled, unlabeled = forward_together(student, batch)
            terms.append((1.0, f"supervised_{name}", supervised_loss(labeled, batch.labeled.strong[0])))
            contrastive = student.contrastive(outputs, step).total
            terms.append((config.contrastive_weight, f"contrastive_{name}", contrastive))
            if pseudo is not None and unlabeled is not None:
                loss = pseudo_label_loss(unlabeled, *targets[k], pseudo.accepted)
                terms.append((config.unlabeled_weight, f"unlabeled_{name}", loss))
        return StepOutput(weighted_sum(terms), pseudo)

    def after_step(self, step: int) -> None:
        """Update the momentum encoders, if the objective has them."""
        for student in self.branches:
            student.after_step()

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """Both peers' parameters."""
        return [group for student in self.branches for group in student.param_groups()]

    def eval_models(self) -> Sequence[nn.Module]:
        """Both peers."""
        return [student.inference_model() for student in self.branches]

    def undo(self) -> None:
        """Restore the labels that the last step replaced."""
        self.labels.undo()
