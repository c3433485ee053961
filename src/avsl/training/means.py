"""Epoch means of what training steps measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from avsl.distributed import gather
from avsl.functional.geometry import warp
from avsl.functional.pseudo_labels import mask_iou, to_grid
from avsl.types import PseudoLabels, SemiBatch, StepOutput

# A measured value, and its weight in the mean.
Weighted = tuple[Tensor, Tensor]


class RunningMeans(nn.Module):
    """Weighted means by name, kept in checkpoints, so that a resumed epoch has the means of the uninterrupted one.

    No value is read before `compute`, because reading one waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict()

    def add(self, values: Mapping[str, Weighted], finite: Tensor) -> None:
        """Add one step's values of all processes.

        Args:
            values: scalars by name; all processes give the same names.
            finite: () bool; a step that is not finite has weight 0.
        """
        pairs = torch.stack([torch.stack([value.float(), weight.float()]) for value, weight in values.values()])
        for name, pair in zip(values, torch.where(finite, gather(pairs.unsqueeze(0)), 0.0).unbind(1), strict=True):
            self._metric(name).to(pair.device).update(pair[:, 0], pair[:, 1])

    def compute(self) -> dict[str, float]:
        """The means with a positive weight; resets all of them."""
        means = {}
        for name in self.metrics:
            metric = self._metric(name)
            if float(metric.weight):
                means[name] = float(metric.compute())
            metric.reset()
        return means

    def _metric(self, name: str) -> MeanMetric:
        if name not in self.metrics:
            # Every process adds the values of all processes, so nothing is left to synchronize.
            metric = MeanMetric(nan_strategy="disable", sync_on_compute=False)
            metric.persistent(True)
            self.metrics[name] = metric
        return cast("MeanMetric", self.metrics[name])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in state_dict:
            if key.startswith(f"{prefix}metrics."):
                self._metric(key.removeprefix(f"{prefix}metrics.").rpartition(".")[0])
        super()._load_from_state_dict(state_dict, prefix, *args)


def measure_step(output: StepOutput, batch: SemiBatch, truth: Tensor | None) -> dict[str, Weighted]:
    """The values that a step logs: its loss terms, and the quality of its pseudo-labels.

    Args:
        output: the framework's.
        batch: the views of the step.
        truth: (B, H, W) hidden masks of the unlabeled rows; None where they are unknown.
    """
    terms = {"loss": output.loss.total.detach(), **output.loss.parts}
    measured = {f"train/{name}": (value, torch.ones_like(value)) for name, value in terms.items()}
    if output.pseudo is not None and batch.unlabeled is not None and batch.unlabeled.weak is not None:
        measured |= pseudo_label_quality(output.pseudo, truth, batch.unlabeled.weak.geometry)
    return measured


@torch.no_grad()
def pseudo_label_quality(pseudo: PseudoLabels, truth: Tensor | None, geometry: Tensor) -> dict[str, Weighted]:
    """Acceptance rate and agreement; precision, recall and IoU of the accepted labels against the hidden truth.

    Args:
        pseudo: labels in the weak view.
        truth: (B, H, W) masks in the frames' geometry; None where they are unknown.
        geometry: (B, 2, 3) of the weak view.
    """
    accepted = pseudo.accepted.float()
    found = {"acceptance": (accepted.mean(), accepted.new_ones(()))}
    if pseudo.agreement is not None:
        found["agreement"] = (pseudo.agreement.mean(), accepted.new_ones(()))
    if truth is not None:
        size = (pseudo.mask.shape[-2], pseudo.mask.shape[-1])
        seen = (to_grid(warp(truth.unsqueeze(1), geometry).squeeze(1), size) >= 0.5).float()
        kept = accepted[:, None, None]
        found["precision"] = _weighted_mean(seen, pseudo.mask * kept)
        found["recall"] = _weighted_mean(pseudo.mask, seen * kept)
        found["iou"] = _weighted_mean(mask_iou(pseudo.mask, seen), accepted)
    return {f"pseudo/{name}": pair for name, pair in found.items()}


def _weighted_mean(values: Tensor, weights: Tensor) -> Weighted:
    total = weights.sum()
    return (values * weights).sum() / total.clamp_min(torch.finfo(total.dtype).tiny), total
