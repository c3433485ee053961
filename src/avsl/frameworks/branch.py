"""What a framework trains: a localiser with its objective, and the pieces every framework shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from avsl.functional.pseudo_labels import pixel_bce, to_grid
from avsl.types import AVBatch, AVOutput, LossTerms, Objective, SemiBatch, join


class Branch(nn.Module):
    """A student: a localiser and the self-supervised objective it is trained with."""

    model: nn.Module
    objective: Objective

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.n_views = objective.n_views

    def forward(self, views: Sequence[AVBatch]) -> tuple[AVOutput, ...]:
        """One output for each view."""
        return tuple(self.model(view) for view in views)

    def contrastive(self, outputs: Sequence[AVOutput]) -> LossTerms:
        """The objective's loss on the outputs of all its views."""
        return self.objective(outputs)

    def param_groups(self) -> list[Mapping[str, Any]]:
        """Matrices and kernels decay; norms, biases, scale and offset do not."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]


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


def forward_together(student: Branch, batch: SemiBatch) -> tuple[tuple[AVOutput, ...], AVOutput, AVOutput | None]:
    """One forward pass of labelled and unlabelled strong views together, so that they share batch-norm statistics.

    Returns:
        the outputs of all rows for each view; the first view's labelled rows; its unlabelled rows.
    """
    if batch.unlabelled is None:
        outputs: tuple[AVOutput, ...] = student(batch.labelled.strong)
        return outputs, outputs[0], None
    views = [join(*pair) for pair in zip(batch.labelled.strong, batch.unlabelled.strong, strict=True)]
    outputs = student(views)
    n_labelled = len(batch.labelled.strong[0])
    first = outputs[0]
    return outputs, first.rows(0, n_labelled), first.rows(n_labelled, len(views[0]))


def supervised_loss(output: AVOutput, view: AVBatch) -> Tensor:
    """Mean over rows of H(G, P), the box mask brought to the map's grid.

    Raises:
        ValueError: the rows carry no masks.
    """
    if view.mask is None:
        raise ValueError("labelled rows carry no masks")
    size = (output.logits.shape[-2], output.logits.shape[-1])
    return pixel_bce(output.logits, to_grid(view.mask, size)).mean()


def weighted_sum(terms: Iterable[tuple[float, str, Tensor]]) -> LossTerms:
    """Σ weight · term, with each term's unweighted value by name."""
    listed = list(terms)
    total = sum((weight * term for weight, _, term in listed[1:]), start=listed[0][0] * listed[0][2])
    return LossTerms(total, {name: term.detach() for _, name, term in listed})
