"""The types that modules exchange: batches, model outputs, losses, and protocols of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# What a network's trunk computes of B samples, each (B, ...): feature maps of frames, or codes of sounds.
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class AVBatch:
    """One view of B samples: frames with their sounds.

    Attributes:
        frame: (B, 3, H, W), float, ImageNet-normalized; of 0 × 0 pixels if all image trunks' outputs are cached.
        waveform: (B, T) mono at 16 kHz in [-1, 1]; None if the outputs of all front ends or audio trunks are cached.
        features: cached front-end outputs, (B, ...) by the front end's key.
        index: (B,) int64 row numbers in the prepared data set.
        geometry: (B, 2, 3) map from this view's coordinates to the frame's, see `avsl.functional.geometry`.
        mask: (B, H, W) in [0, 1], the annotation in this view; None for samples without labels.
        recording: (B,) int64, equal for samples of one recording; None where no objective contrasts samples.
        seen: cached outputs of frozen image trunks, by the trunk's key.
        heard: cached outputs of frozen audio trunks, by the trunk's key.
    """

    frame: Tensor
    waveform: Tensor | None
    features: Mapping[str, Tensor]
    index: Tensor
    geometry: Tensor
    mask: Tensor | None = None
    recording: Tensor | None = None
    seen: Mapping[str, Outputs] = field(default_factory=dict)
    heard: Mapping[str, Outputs] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)


def join(first: AVBatch, second: AVBatch) -> AVBatch:
    """Concatenate two batches; the result has no mask, because one of the two may have none."""
    return AVBatch(
        frame=torch.cat([first.frame, second.frame]),
        waveform=_join(first.waveform, second.waveform),
        features={key: torch.cat([first.features[key], second.features[key]]) for key in first.features},
        index=torch.cat([first.index, second.index]),
        geometry=torch.cat([first.geometry, second.geometry]),
        recording=_join(first.recording, second.recording),
        seen=_join_outputs(first.seen, second.seen),
        heard=_join_outputs(first.heard, second.heard),
    )


def _join(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])


def _join_outputs(first: Mapping[str, Outputs], second: Mapping[str, Outputs]) -> dict[str, Outputs]:
    return {key: tuple(map(torch.cat, zip(first[key], second[key], strict=True))) for key in first}


@dataclass(frozen=True)
class Views:
    """Augmented views of the same samples.

    Attributes:
        strong: the students' views, as many as the objective needs.
        weak: the labelers' view; None if the framework has no labeler.
    """

    strong: tuple[AVBatch, ...]
    weak: AVBatch | None = None


@dataclass(frozen=True)
class SemiBatch:
    """The labeled and unlabeled samples of one step.

    Attributes:
        labeled: samples with masks; all samples, without masks, if the framework uses no labels.
        unlabeled: samples without masks; None if all samples are labeled or the framework uses no unlabeled ones.
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
    """A model's output for one view.

    Attributes:
        heads: pairs of embeddings, as many as the objective needs.
        logits: (B, h, w) confidence before the sigmoid: scale · S + offset, where S is the mean of the heads' maps.
        features: (B, C, h, w) visual features of the first head before normalization.
        momentum: the momentum encoders' output for the same view, without a gradient; None without such encoders.
        recording: (B,) int64, equal for samples of one recording, which are no negatives of each other; None if all
            recordings differ.
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
    """A loss and its named parts, which are detached scalars without their weights."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PseudoLabels:
    """The pseudo-labels of a step, which are logged against the hidden truth.

    Attributes:
        mask: (B, h, w) in [0, 1], on the grid of the weak view.
        accepted: (B,) bool.
        agreement: (B,) agreement of two labelers in [0, 1]; None if there is one.
    """

    mask: Tensor
    accepted: Tensor
    agreement: Tensor | None = None


@dataclass(frozen=True)
class StepOutput:
    """The loss of one training step and the pseudo-labels in it."""

    loss: LossTerms
    pseudo: PseudoLabels | None = None


class FrontEnd(Protocol):
    """Turns waveforms into features.

    Attributes:
        key: name of its output among a batch's cached features; equal for equal settings.
        cacheable: whether its output can be cached; False if it is the waveform.
    """

    key: str
    cacheable: bool

    def __call__(self, waveform: Tensor) -> Tensor:
        """Compute (B, 1, F, T') features of (B, T) waveforms in [-1, 1]."""
        ...


@dataclass(frozen=True)
class FrozenTrunk:
    """The frozen part of an encoder, whose outputs of a clip never change and can be cached.

    Attributes:
        key: equal for equal settings and weights.
        compute: outputs of (B, 3, H, W) normalized frames, or of (B, T) waveforms in [-1, 1].
    """

    key: str
    compute: Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Needs:
    """What an objective needs of the branch that it is trained in.

    Attributes:
        views: number of augmented views of each sample.
        heads: number of pairs of embeddings of each view.
        momentum: m of the momentum encoders; None for no momentum encoders.
        momentum_inference: whether to export the momentum encoders instead of the trained ones.
        lr_scale: learning rate of the objective's parameters, as a multiple of the network's.
    """

    views: int = 1
    heads: int = 1
    momentum: float | None = None
    momentum_inference: bool = False
    lr_scale: float = 1.0


class Objective(Protocol):
    """A self-supervised loss on outputs; it never sees labels."""

    needs: Needs

    def __call__(self, views: Sequence[AVOutput], step: int) -> LossTerms:
        """Compute the loss of ``needs.views`` views of the same samples; ``step`` counts optimizer steps from 0."""
        ...


class Framework(Protocol):
    """A semi-supervised method: it decides how labels and pseudo-labels are used, for any objective.

    Attributes:
        n_views: number of strong views of each sample.
        needs_weak_view: whether unlabeled samples get a weak view for a labeler.
        uses_labels: whether labels enter the loss; if not, batches mix all samples and have no masks.
        uses_unlabeled: whether batches have unlabeled samples.
    """

    n_views: int
    needs_weak_view: bool
    uses_labels: bool
    uses_unlabeled: bool

    def training_step(self, batch: SemiBatch, step: int) -> StepOutput:
        """Compute the loss of one step; ``step`` counts optimizer steps from 0."""
        ...

    def after_step(self, step: int) -> None:
        """Update teachers and momentum encoders after the optimizer's step."""
        ...

    def param_groups(self) -> Iterable[Mapping[str, Any]]:
        """The trained parameters, never a teacher's, in groups for the optimizer."""
        ...

    def eval_models(self) -> Sequence[nn.Module]:
        """The networks to validate and export; their confidences are averaged."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A model whose confidence has trained parameters."""

    def calibration(self) -> list[nn.Parameter]:
        """The parameters of the confidence, which only labels can train."""
        ...


@runtime_checkable
class KeepsLabels(Protocol):
    """A framework that stores pseudo-labels in host memory, outside its parameters and buffers."""

    def undo(self) -> None:
        """Restore the labels that the last training step replaced."""
        ...
