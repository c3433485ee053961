"""What a framework trains: a localiser with its objective, and the pieces every framework shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avsl.functional.ema import ema_update
from avsl.functional.pseudo_labels import pixel_bce, to_grid
from avsl.types import AVBatch, AVOutput, LossTerms, Objective, SemiBatch, join


class Branch(nn.Module):
    """A student: a localiser, the self-supervised objective it is trained with, and what that objective needs."""

    model: nn.Module
    objective: Objective
    momentum: nn.Module | None

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.needs = objective.needs
        # Momentum encoders see batches as the trained ones do: in training mode, with statistics of their own.
        self.momentum = None if self.needs.momentum is None else copy.deepcopy(model).requires_grad_(False)

    def forward(self, views: Sequence[AVBatch]) -> tuple[AVOutput, ...]:
        """One output for each view."""
        outputs = tuple(self.model(view) for view in views)
        if self.momentum is None:
            return outputs
        with torch.no_grad():
            targets = [self.momentum(view) for view in views]
        return tuple(replace(out, momentum=target) for out, target in zip(outputs, targets, strict=True))

    def contrastive(self, outputs: Sequence[AVOutput], step: int) -> LossTerms:
        """The objective's loss on the outputs of all its views."""
        return self.objective(outputs, step)

    def after_step(self) -> None:
        """Momentum update, after the optimiser's step."""
        if self.momentum is not None and self.needs.momentum is not None:
            ema_update(self.momentum, self.model, self.needs.momentum, buffers=False)

    def inference_model(self) -> nn.Module:
        """The localiser to validate and export."""
        return self.momentum if self.momentum is not None and self.needs.momentum_inference else self.model

    def param_groups(self) -> list[Mapping[str, Any]]:
        """Matrices and kernels decay; norms, biases, scales, offsets and rates do not.

        ``lr_scale`` multiplies the learning rate.
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


def is_matrix(parameter: Tensor) -> bool:
    """Whether it extends along more than one axis: a vector kept as (1, C, 1, 1) does not."""
    return sum(length > 1 for length in parameter.shape) > 1


# Builds the k-th student (k = 0, 1): each call initialises another network from its own seed.
MakeBranch = Callable[[int], Branch]


class Teacher(nn.Module):
    """A copy of a student's localiser that is averaged into and asked, never trained.

    It stays in evaluation mode whatever its parent is set to, so that its labels do not depend on the batch.
    """

    model: nn.Module

    def __init__(self, student: Branch) -> None:
        super().__init__()
        self.model = copy.deepcopy(student.model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Teacher:
        """Ignore the mode."""
        return self

    def forward(self, batch: AVBatch) -> AVOutput:
        """The output for one view."""
        output: AVOutput = self.model(batch)
        return output


def forward_together(student: Branch, batch: SemiBatch) -> tuple[tuple[AVOutput, ...], Tensor, Tensor | None]:
    """One forward pass of labelled and unlabelled strong views together, so that they share batch-norm statistics.

    Returns:
        the outputs of all rows for each view; the logits of the first view's labelled rows; of its unlabelled rows.
    """
    if batch.unlabelled is None:
        outputs: tuple[AVOutput, ...] = student(batch.labelled.strong)
        return outputs, outputs[0].logits, None
    views = [join(*pair) for pair in zip(batch.labelled.strong, batch.unlabelled.strong, strict=True)]
    outputs = student(views)
    n_labelled = len(batch.labelled.strong[0])
    logits = outputs[0].logits
    return outputs, logits[:n_labelled], logits[n_labelled:]


def supervised_loss(logits: Tensor, view: AVBatch) -> Tensor:
    """Mean over rows of H(G, P), the box mask brought to the map's grid.

    Raises:
        ValueError: the rows carry no masks.
    """
    if view.mask is None:
        raise ValueError("labelled rows carry no masks")
    size = (logits.shape[-2], logits.shape[-1])
    return pixel_bce(logits, to_grid(view.mask, size)).mean()


def unlabelled_views(batch: SemiBatch) -> tuple[AVBatch, AVBatch] | None:
    """The weak view, which labellers see, and the first strong view of the unlabelled rows; None at 100 % labels.

    Raises:
        ValueError: the rows carry no weak view.
    """
    if batch.unlabelled is None:
        return None
    if batch.unlabelled.weak is None:
        raise ValueError("unlabelled rows carry no weak view for the labeller")
    return batch.unlabelled.weak, batch.unlabelled.strong[0]


def pseudo_label_loss(logits: Tensor, target: Tensor, seen: Tensor, accepted: Tensor) -> Tensor:
    """Mean over all rows of H(Y, P), rejected rows counting 0: few accepted labels weigh little.

    Args:
        logits: (B, h, w).
        target: (B, h', w') pseudo-labels in the logits' view, brought to their grid here.
        seen: (B, h', w') how much each of its cells counts.
        accepted: (B,) weight of each row.
    """
    size = (logits.shape[-2], logits.shape[-1])
    return (pixel_bce(logits, to_grid(target, size), to_grid(seen, size)) * accepted).mean()


def weighted_sum(terms: Iterable[tuple[float, str, Tensor]]) -> LossTerms:
    """Σ weight · term, with each term's unweighted value by name."""
    listed = list(terms)
    total = sum((weight * term for weight, _, term in listed[1:]), start=listed[0][0] * listed[0][2])
    return LossTerms(total, {name: term.detach() for _, name, term in listed})
