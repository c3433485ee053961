"""A branch (a localizer with its objective), which frameworks train, and the parts that frameworks share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from avsl.distributed import gather, together
from avsl.functional.ema import ema_update, half_life_decay
from avsl.functional.geometry import transfer_labels
from avsl.functional.pseudo_labels import confident_mask, not_empty, pixel_bce, to_grid
from avsl.schema import Steps, StrictConfig
from avsl.types import (
    AVBatch,
    AVOutput,
    Calibrated,
    Head,
    LossTerms,
    Objective,
    PseudoLabels,
    SemiBatch,
    StepOutput,
    join,
)


class Branch(nn.Module):
    """A student: a localizer, its self-supervised objective, and momentum encoders if the objective needs them."""

    model: nn.Module
    objective: Objective
    momentum: nn.Module | None

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.needs = objective.needs
        # As in the published code, momentum encoders run in training mode and keep separate batch-norm statistics.
        self.momentum = None if self.needs.momentum is None else copy.deepcopy(model).requires_grad_(False)

    def forward(self, views: Sequence[AVBatch]) -> tuple[AVOutput, ...]:
        """Compute the output of each view."""
        outputs = tuple(replace(self.model(view), recording=view.recording) for view in views)
        if self.momentum is None:
            return outputs
        with torch.no_grad():
            targets = [self.momentum(view) for view in views]
        return tuple(replace(out, momentum=target) for out, target in zip(outputs, targets, strict=True))

    def contrastive(self, outputs: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the objective's loss on the samples of all training processes.

        The number of negatives is therefore that of a single process with all samples of the step.
        """
        gathered = [of_all_processes(output) for output in outputs]
        # A cosine in half precision has two digits, too few at a temperature of 0.03.
        with torch.autocast(gathered[0].visual.device.type, enabled=False):
            return self.objective(gathered, step)

    def after_step(self) -> None:
        """Update the momentum encoders after the optimizer's step."""
        if self.momentum is not None and self.needs.momentum is not None:
            ema_update(self.momentum, self.model, self.needs.momentum, buffers=False)

    def inference_model(self) -> nn.Module:
        """The localizer to validate and export."""
        return self.momentum if self.momentum is not None and self.needs.momentum_inference else self.model

    def calibration(self) -> list[nn.Parameter]:
        """The localizer's parameters that only labels can train: scale and offset of its confidence, if it has them."""
        return self.model.calibration() if isinstance(self.model, Calibrated) else []

    def param_groups(self) -> list[Mapping[str, Any]]:
        """The trained parameters in groups with ``lr_scale``, a factor of the learning rate.

        Weight decay applies to matrices and kernels, but not to norms, biases, scales and offsets.
        """
        own = [*self.objective.parameters()] if isinstance(self.objective, nn.Module) else []
        groups = []
        for parameters, lr_scale in ((self.model.parameters(), 1.0), (own, self.needs.lr_scale)):
            trained = [p for p in parameters if p.requires_grad]
            decayed = [p for p in trained if is_matrix(p)]
            rest = [p for p in trained if not is_matrix(p)]
            groups.append({"params": decayed, "lr_scale": lr_scale})
            groups.append({"params": rest, "lr_scale": lr_scale, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]


def of_all_processes(output: AVOutput) -> AVOutput:
    """The outputs of all training processes as one, see `avsl.distributed.gather`."""
    if not together():
        return output
    return AVOutput(
        heads=tuple(Head(gather(head.visual), gather(head.audio)) for head in output.heads),
        logits=gather(output.logits),
        features=gather(output.features),
        momentum=None if output.momentum is None else of_all_processes(output.momentum),
        recording=None if output.recording is None else gather(output.recording),
    )


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter has more than one axis longer than 1; a vector stored as (1, C, 1, 1) has not."""
    return sum(length > 1 for length in parameter.shape) > 1


# Builds the k-th student (k = 0, 1), initialized from a separate seed.
MakeBranch = Callable[[int], Branch]


class Teacher(nn.Module):
    """An averaged copy of a student's localizer, which labels and is never trained.

    It is always in evaluation mode, so that its labels do not depend on the batch.
    """

    model: nn.Module

    def __init__(self, student: Branch) -> None:
        super().__init__()
        self.model = copy.deepcopy(student.model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return self

    def forward(self, batch: AVBatch) -> AVOutput:
        """Compute the output of one view."""
        output: AVOutput = self.model(batch)
        return output


@torch.no_grad()
def predict_in_eval_mode(student: Branch, view: AVBatch) -> AVOutput:
    """Compute a student's output in evaluation mode, so that a sample's label does not depend on the batch.

    The student's mode and batch-norm statistics are unchanged afterwards.
    """
    training = student.model.training
    student.model.eval()
    try:
        output: AVOutput = student.model(view)
    finally:
        student.model.train(training)
    return output


def forward_together(student: Branch, batch: SemiBatch) -> tuple[tuple[AVOutput, ...], Tensor, Tensor | None]:
    """Run labeled and unlabeled strong views through the student together, with shared batch-norm statistics.

    Returns:
        The outputs of each view, and the logits of the first view's labeled and unlabeled samples.
    """
    if batch.unlabeled is None:
        outputs: tuple[AVOutput, ...] = student(batch.labeled.strong)
        return outputs, outputs[0].logits, None
    views = [join(*pair) for pair in zip(batch.labeled.strong, batch.unlabeled.strong, strict=True)]
    outputs = student(views)
    n_labeled = len(batch.labeled.strong[0])
    logits = outputs[0].logits
    return outputs, logits[:n_labeled], logits[n_labeled:]


def supervised_loss(logits: Tensor, view: AVBatch) -> Tensor:
    """The mean of H(G, P) over samples, with the mask reduced to the map's grid.

    Raises:
        ValueError: the view has no masks.
    """
    if view.mask is None:
        raise ValueError("labeled samples need masks")
    size = (logits.shape[-2], logits.shape[-1])
    return pixel_bce(logits, to_grid(view.mask, size)).mean()


def unlabeled_views(batch: SemiBatch) -> tuple[AVBatch, AVBatch] | None:
    """The weak view and the first strong view of the unlabeled samples; None if there are none.

    Raises:
        ValueError: the samples have no weak view.
    """
    if batch.unlabeled is None:
        return None
    if batch.unlabeled.weak is None:
        raise ValueError("unlabeled samples need a weak view for the labeler")
    return batch.unlabeled.weak, batch.unlabeled.strong[0]


def pseudo_label_loss(logits: Tensor, target: Tensor, seen: Tensor, accepted: Tensor) -> Tensor:
    """The mean of H(Y, P) over all samples; rejected samples count 0, so that few accepted labels have a small weight.

    Args:
        logits: (B, h, w).
        target: (B, h', w') pseudo-labels in the view of the logits; they are reduced to their grid.
        seen: (B, h', w') weight of each cell of the target.
        accepted: (B,) weight of each sample.
    """
    size = (logits.shape[-2], logits.shape[-1])
    weight = to_grid(seen, size)
    if target.shape[-2:] != size:
        # The label of a coarse cell is the mean over its seen part.
        target = to_grid(target * seen, size) / weight.clamp_min(1e-6)
    return (pixel_bce(logits, target, weight) * accepted).mean()


def weighted_sum(terms: Iterable[tuple[float, str, Tensor]]) -> LossTerms:
    """The loss Σ weight · term of (weight, name, term), and each unweighted term by name."""
    listed = list(terms)
    total = sum((weight * term for weight, _, term in listed[1:]), start=listed[0][0] * listed[0][2])
    return LossTerms(total, {name: term.detach() for _, name, term in listed})


class HardLabelConfig(StrictConfig):
    """Learning from hard pseudo-labels.

    Attributes:
        delta: δ, confidence from which a cell of a pseudo-label is 1.
        unlabeled_weight: λ_u of the loss on pseudo-labels.
        contrastive_weight: λ_c of the objective on L ∪ U.
        warmup_steps: steps on the labeled clips (and the objective) before pseudo-labels are used; below 1 a share of
            the training.
    """

    SPACE: ClassVar[Mapping[str, Any]] = {
        "delta": {"kind": "float", "low": 0.2, "high": 0.7},
        "unlabeled_weight": {"kind": "log", "low": 0.1, "high": 3.0},
        "contrastive_weight": {"kind": "log", "low": 0.03, "high": 1.0},
        "warmup_steps": {"kind": "float", "low": 0.05, "high": 0.3},
    }

    delta: float = Field(0.6, ge=0, le=1)
    unlabeled_weight: float = Field(1.0, ge=0)
    contrastive_weight: float = Field(1.0, ge=0)
    warmup_steps: Steps = 0.12


class TeacherConfig(HardLabelConfig):
    """Learning from the hard pseudo-labels of averaged teachers.

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


def update_teachers(pairs: Iterable[tuple[Branch, Teacher]], step: int, config: TeacherConfig) -> None:
    """Update teachers after the optimizer's step, and their students' momentum encoders.

    Teachers are copies of their students until the warm-up ends.

    Args:
        pairs: each student with its teacher.
        step: optimizer steps before this one.
        config: half-life or decay in steps, and the warm-up.
    """
    decay = half_life_decay(config.ema_half_life) if config.ema_decay is None else config.ema_decay
    for student, teacher in pairs:
        ema_update(teacher.model, student.model, decay if step >= config.warmup_steps else 0.0)
        student.after_step()


def hard_label_step(
    student: Branch, labeler: Callable[[AVBatch], AVOutput], batch: SemiBatch, step: int, config: HardLabelConfig
) -> StepOutput:
    """Compute the loss of a student with one labeler, which may be the student.

    L = H(G, P) on L + λ_u · H(Y, P) on accepted U + λ_c · L_contrastive on L ∪ U, with Y = 1[P_labeler ≥ δ] on the
    weak view, accepted where it is not empty.

    Args:
        student: the trained branch.
        labeler: computes the output of the weak view, without a gradient.
        batch: the samples of the step.
        step: optimizer steps so far.
        config: δ, weights and warm-up.
    """
    pseudo, views = None, unlabeled_views(batch)
    if step >= config.warmup_steps and views is not None:
        weak, strong = views
        # The labeler runs before the student's forward pass, which updates its batch-norm statistics.
        with torch.no_grad():
            mask = confident_mask(labeler(weak).confidence, config.delta)
        pseudo = PseudoLabels(mask, accepted=not_empty(mask))
        target, seen = transfer_labels(mask, weak.geometry, strong.geometry)
    outputs, labeled, unlabeled = forward_together(student, batch)
    terms = [
        (1.0, "supervised", supervised_loss(labeled, batch.labeled.strong[0])),
        (config.contrastive_weight, "contrastive", student.contrastive(outputs, step).total),
    ]
    if pseudo is not None and unlabeled is not None:
        loss = pseudo_label_loss(unlabeled, target, seen, pseudo.accepted)
        terms.append((config.unlabeled_weight, "unlabeled", loss))
    return StepOutput(weighted_sum(terms), pseudo)
