"""Means over an epoch of what steps measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from avsl.distributed import gather
from avsl.functional.geometry import warp
from avsl.functional.pseudo_labels import mask_iou, to_grid
from avsl.types import PseudoLabels

# What one step has measured: a value, and how much it counts in the mean.
Weighted = tuple[Tensor, Tensor]


class RunningMeans(nn.Module):
    """Weighted means by name; part of the state, so that a resumed epoch has the means of the uninterrupted one.

    No value is read before `compute`: reading makes a step wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict()

    def add(self, values: Mapping[str, Weighted], finite: Tensor) -> None:
        """Add one step's values of all processes.

        Args:
            values: scalars by name, the same names in every process.
            finite: () bool; a step that is not finite does not count.
        """
        pairs = torch.stack([torch.stack([value.float(), weight.float()]) for value, weight in values.values()])
        for name, pair in zip(values, torch.where(finite, gather(pairs.unsqueeze(0)), 0.0).unbind(1), strict=True):
            self._metric(name).to(pair.device).update(pair[:, 0], pair[:, 1])

    def compute(self) -> dict[str, float]:
        """The means of all names that count at all; they start again."""
        means = {}
        for name in self.metrics:
            metric = self._metric(name)
            if float(metric.weight):
                means[name] = float(metric.compute())
            metric.reset()
        return means

    def _metric(self, name: str) -> MeanMetric:
        if name not in self.metrics:
            # Every process adds all processes' values: there is nothing to synchronize.
            metric = MeanMetric(nan_strategy="disable", sync_on_compute=False)
            metric.persistent(True)
            self.metrics[name] = metric
        return cast("MeanMetric", self.metrics[name])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in state_dict:
            if key.startswith(f"{prefix}metrics."):
                self._metric(key.removeprefix(f"{prefix}metrics.").rpartition(".")[0])
        super()._load_from_state_dict(state_dict, prefix, *args)


@torch.no_grad()
def pseudo_label_quality(pseudo: PseudoLabels, truth: Tensor | None, geometry: Tensor) -> dict[str, Weighted]:
    """Acceptance and agreement; against the hidden truth, the accepted labels' precision, recall and IoU.

    Args:
        pseudo: labels in the weak view.
        truth: (B, H, W) masks in the frames' geometry; None where they are not known.
        geometry: (B, 2, 3), the weak view's.
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
