"""XPL's label memory: one soft label per sample and model, which is part of the framework's state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from avsl.errors import AvslError

Labels = NDArray[np.float16]
Reliability = NDArray[np.float32]
Rows = NDArray[np.int64]


class LabelMemoryError(AvslError):
    """The grid of the labels differs from that of the stored ones."""


class LabelMemory(nn.Module):
    """Half-precision labels of every sample by each model, and the latest reliability of each sample.

    The labels are in host memory and in checkpoints, as extra state: for 200,000 samples and two models on a 14 x 14
    grid they take 157 MB, which `torch.save` writes in 0.2 to 0.9 s. All training processes write the same labels.

    Args:
        models: number of models that label each sample.
    """

    def __init__(self, models: int) -> None:
        super().__init__()
        self._models = models
        self._labels: Labels = np.empty((0, models, 0, 0), np.float16)
        self._reliability: Reliability = np.empty(0, np.float32)
        # The previous values of the rows that were written since `mark`.
        self._before: list[tuple[Rows, Labels, Reliability]] = []

    @property
    def reliability(self) -> Reliability:
        """The latest reliability of each visited sample, ordered by row number."""
        return self._reliability[~np.isnan(self._reliability)]

    def read(self, rows: Rows, grid: tuple[int, ...]) -> Labels:
        """The labels of ``rows``, (n, models, *grid); NaN on cells that no model has seen.

        Raises:
            LabelMemoryError: the stored labels have another grid.
        """
        self._make_room(rows, grid)
        return self._labels[rows]

    def write(self, rows: Rows, labels: Labels, reliability: Reliability) -> None:
        """Replace the labels (n, models, h, w) and reliabilities (n,) of ``rows``; of repeated rows the last counts.

        Raises:
            LabelMemoryError: the stored labels have another grid.
        """
        self._make_room(rows, labels.shape[2:])
        self._before.append((rows, self._labels[rows], self._reliability[rows]))
        self._labels[rows], self._reliability[rows] = labels, reliability

    def mark(self) -> None:
        """Mark the current state for `undo`."""
        self._before = []

    def undo(self) -> None:
        """Restore the state at `mark`."""
        while self._before:
            rows, labels, reliability = self._before.pop()
            self._labels[rows], self._reliability[rows] = labels, reliability

    def get_extra_state(self) -> dict[str, Any]:
        """All labels and reliabilities, as tensors that share this object's memory."""
        return {"labels": torch.from_numpy(self._labels), "reliability": torch.from_numpy(self._reliability)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Replace all labels and reliabilities."""
        self._labels, self._reliability = (state[key].numpy().copy() for key in ("labels", "reliability"))
        self._before = []

    def _make_room(self, rows: Rows, grid: tuple[int, ...]) -> None:
        known, kept = len(self._labels), self._labels.shape[2:]
        if known and kept != grid:
            raise LabelMemoryError(f"the stored labels have the grid {kept}, not {grid}")
        missing = int(rows.max(initial=-1)) + 1 - known
        if missing > 0:
            new = np.full((missing, self._models, *grid), np.nan, np.float16)
            self._labels = np.concatenate([self._labels, new]) if known else new
            self._reliability = np.pad(self._reliability, (0, missing), constant_values=np.nan)
