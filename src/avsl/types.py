"""The values that cross module borders: batches in, outputs and losses out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AVBatch:
    """B rows of one view of frames with their sounds.

    Attributes:
        frame: (B, 3, H, W), float, ImageNet-normalised.
        waveform: (B, T) mono at 16 kHz in [-1, 1]; None where every front end's output is cached.
        features: cached front-end outputs, (B, ...) by the front end's key.
        index: (B,) int64, the rows' positions in the prepared data set.
        geometry: (B, 2, 3), maps this view's coordinates to the frame's, both in [-1, 1] (x, y).
        mask: (B, H, W) in [0, 1], the box mask in this view; None on rows without labels.
    """

    frame: Tensor
    waveform: Tensor | None
    features: Mapping[str, Tensor]
    index: Tensor
    geometry: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frame)


def join(first: AVBatch, second: AVBatch) -> AVBatch:
    """Stack the rows of two batches; the result has no mask, as one of the two may have none."""
    return AVBatch(
        frame=torch.cat([first.frame, second.frame]),
        waveform=None
        if first.waveform is None or second.waveform is None
        else torch.cat([first.waveform, second.waveform]),
        features={key: torch.cat([first.features[key], second.features[key]]) for key in first.features},
        index=torch.cat([first.index, second.index]),
        geometry=torch.cat([first.geometry, second.geometry]),
    )


@dataclass(frozen=True)
class Views:
    """Augmented views of the same rows.

    Attributes:
        strong: the views students learn from; as many as the objective asks for.
        weak: the view labellers see; None where the framework has no labeller.
    """

    strong: tuple[AVBatch, ...]
    weak: AVBatch | None = None


@dataclass(frozen=True)
class SemiBatch:
    """One step's rows: labelled ones with masks and unlabelled ones without; at 100 % labels the latter are None."""

    labelled: Views
    unlabelled: Views | None = None


@dataclass(frozen=True)
class AVOutput:
    """What a model makes of one view.

    Attributes:
        visual: (B, C, h, w), L2-normalised over C.
        audio: (B, C), L2-normalised.
        logits: (B, h, w), confidence before the sigmoid: scale · similarity + offset.
    """

    visual: Tensor
    audio: Tensor
    logits: Tensor

    @property
    def confidence(self) -> Tensor:
        """P in [0, 1], (B, h, w); absolute, never min-max per image."""
        return self.logits.sigmoid()

    def rows(self, start: int, stop: int) -> AVOutput:
        """The rows [start, stop)."""
        return AVOutput(self.visual[start:stop], self.audio[start:stop], self.logits[start:stop])


@dataclass(frozen=True)
class LossTerms:
    """A loss and its named parts (detached scalars, before their weights)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PseudoLabels:
    """The labels a framework gave to unlabelled rows, for logging their quality against a hidden truth.

    Attributes:
        mask: (B, h, w) in [0, 1], on the grid of the weak view.
        accepted: (B,) bool.
        agreement: (B,) the labellers' agreement in [0, 1], where there are two.
    """

    mask: Tensor
    accepted: Tensor
    agreement: Tensor | None = None


@dataclass(frozen=True)
class StepOutput:
    """One training step: what to minimise and the pseudo-labels behind it."""

    loss: LossTerms
    pseudo: PseudoLabels | None = None


class Objective(Protocol):
    """A self-supervised loss; sees outputs, never labels."""

    n_views: int

    def __call__(self, views: Sequence[AVOutput]) -> LossTerms:
        """The loss of ``n_views`` views of the same rows."""
        ...


class Framework(Protocol):
    """Decides what labels and pseudo-labels do; never knows which objective it wraps."""

    n_views: int
    needs_weak_view: bool
    uses_unlabelled: bool

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """The loss of one step; ``step`` counts optimiser steps from 0."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step (EMA)."""
        ...

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """What the optimiser trains; a teacher's parameters are never among them."""
        ...

    def eval_models(self) -> Sequence[nn.Module]:
        """The networks that are validated, exported and served; their confidences are averaged."""
        ...
