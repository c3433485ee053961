"""The values that cross module borders: batches in, outputs and losses out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AVBatch:
    """B rows of one view of frames with their sounds.

    Attributes:
        frame: (B, 3, H, W), float, ImageNet-normalized.
        waveform: (B, T) mono at 16 kHz in [-1, 1]; None where every front end's output is cached.
        features: cached front-end outputs, (B, ...) by the front end's key.
        index: (B,) int64, the rows' positions in the prepared data set.
        geometry: (B, 2, 3), maps this view's coordinates to the frame's, both in [-1, 1] (x, y).
        mask: (B, H, W) in [0, 1], the annotation in this view; None on rows without labels.
        recording: (B,) int64, equal for rows of one recording; None where nothing is contrasted.
    """

    frame: Tensor
    waveform: Tensor | None
    features: Mapping[str, Tensor]
    index: Tensor
    geometry: Tensor
    mask: Tensor | None = None
    recording: Tensor | None = None

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
        recording=None
        if first.recording is None or second.recording is None
        else torch.cat([first.recording, second.recording]),
    )


@dataclass(frozen=True)
class Views:
    """Augmented views of the same rows.

    Attributes:
        strong: the views students learn from; as many as the objective asks for.
        weak: the view labelers see; None where the framework has no labeler.
    """

    strong: tuple[AVBatch, ...]
    weak: AVBatch | None = None


@dataclass(frozen=True)
class SemiBatch:
    """One step's rows: labeled ones with masks and unlabeled ones without.

    Attributes:
        labeled: all rows, without masks, where the framework uses no labels.
        unlabeled: None where there are none, at 100 % labels, or none are asked for.
    """

    labeled: Views
    unlabeled: Views | None = None


@dataclass(frozen=True)
class Head:
    """One pair of embeddings.

    Attributes:
        visual: (B, C, h, w), L2-normalized over C.
        audio: (B, C), L2-normalized.
    """

    visual: Tensor
    audio: Tensor


@dataclass(frozen=True)
class AVOutput:
    """What a model makes of one view.

    Attributes:
        heads: its pairs of embeddings; one, or as many as the objective asks for.
        logits: (B, h, w), confidence before the sigmoid: scale · S + offset, S the mean of the heads' similarities.
        features: (B, C, h, w), the first head's visual features before they are normalized.
        momentum: what the momentum encoders make of the same view, without a gradient; None where there are none.
        recording: (B,) int64, equal for rows of one recording, which are no negatives of each other; None where each
            row has another.
    """

    heads: tuple[Head, ...]
    logits: Tensor
    features: Tensor
    momentum: AVOutput | None = None
    recording: Tensor | None = None

    @property
    def visual(self) -> Tensor:
        """The first head's visual embedding."""
        return self.heads[0].visual

    @property
    def audio(self) -> Tensor:
        """The first head's audio embedding."""
        return self.heads[0].audio

    @property
    def confidence(self) -> Tensor:
        """P in [0, 1], (B, h, w); absolute, never min-max per image."""
        return self.logits.sigmoid()


@dataclass(frozen=True)
class LossTerms:
    """A loss and its named parts (detached scalars, before their weights)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PseudoLabels:
    """The labels a framework gave to unlabeled rows, for logging their quality against a hidden truth.

    Attributes:
        mask: (B, h, w) in [0, 1], on the grid of the weak view.
        accepted: (B,) bool.
        agreement: (B,) the labelers' agreement in [0, 1], where there are two.
    """

    mask: Tensor
    accepted: Tensor
    agreement: Tensor | None = None


@dataclass(frozen=True)
class StepOutput:
    """One training step: what to minimize and the pseudo-labels behind it."""

    loss: LossTerms
    pseudo: PseudoLabels | None = None


class FrontEnd(Protocol):
    """Turns waveforms into features.

    Attributes:
        key: names its output in a batch's cached features; equal settings, equal key.
        cacheable: whether its output is worth keeping; not where it is the waveform itself.
    """

    key: str
    cacheable: bool

    def __call__(self, waveform: Tensor) -> Tensor:
        """(B, T) waveforms in [-1, 1] to (B, 1, F, T') features."""
        ...


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the branch it is trained in.

    Attributes:
        views: augmented views of each row.
        heads: pairs of embeddings of each view.
        momentum: m of the momentum encoders; None for no such encoders.
        momentum_inference: whether the momentum encoders, not the trained ones, are exported.
        lr_scale: learning rate of the objective's own parameters, as a multiple of the network's.
    """

    views: int = 1
    heads: int = 1
    momentum: float | None = None
    momentum_inference: bool = False
    lr_scale: float = 1.0


class Objective(Protocol):
    """A self-supervised loss; sees outputs, never labels."""

    needs: Needs

    def __call__(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """The loss of ``needs.views`` views of the same rows; ``step`` counts optimizer steps from 0."""
        ...


class Framework(Protocol):
    """Decides what labels and pseudo-labels do; never knows which objective it wraps.

    Attributes:
        n_views: strong views of each row.
        needs_weak_view: whether unlabeled rows get a weak view, for a labeler.
        uses_labels: whether boxes reach the loss; where they do not, all rows are drawn alike and none has a mask.
        uses_unlabeled: whether unlabeled rows are drawn at all.
    """

    n_views: int
    needs_weak_view: bool
    uses_labels: bool
    uses_unlabeled: bool

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """The loss of one step; ``step`` counts optimizer steps from 0."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step (EMA)."""
        ...

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """What the optimizer trains; a teacher's parameters are never among them."""
        ...

    def eval_models(self) -> Sequence[nn.Module]:
        """The networks that are validated, exported and served; their confidences are averaged."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A model whose confidence has parameters of its own."""

    def calibration(self) -> list[nn.Parameter]:
        """Those parameters, which only labels can teach."""
        ...


@runtime_checkable
class KeepsLabels(Protocol):
    """A framework that remembers pseudo-labels on the host, outside its tensors."""

    def undo(self) -> None:
        """Take back the labels that the last training step has written."""
        ...
