"""XPL's memory: one soft label per sample and model, part of the framework's state."""

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
    """Labels on another grid than those that are kept."""


class LabelMemory(nn.Module):
    """Half-precision labels of every sample by each model, with the sample's latest reliability.

    They stay in the host's memory and go with the checkpoint as extra state: 200,000 samples by two models on a 14 x 14
    grid are 157 MB, which `torch.save` writes in 0.2 to 0.9 s. All processes that train together write the same labels.

    Args:
        models: how many label each sample.
    """

    def __init__(self, models: int) -> None:
        super().__init__()
        self._models = models
        self._labels: Labels = np.empty((0, models, 0, 0), np.float16)
        self._reliability: Reliability = np.empty(0, np.float32)
        # What the rows written since `mark` held before.
        self._before: list[tuple[Rows, Labels, Reliability]] = []

    @property
    def reliability(self) -> Reliability:
        """The latest reliability of each sample that has been visited, by row number."""
        return self._reliability[~np.isnan(self._reliability)]

    def read(self, rows: Rows, grid: tuple[int, ...]) -> Labels:
        """The labels of ``rows``, (n, models, *grid); NaN on cells that no model has seen.

        Raises:
            LabelMemoryError: the labels are kept on another grid.
        """
        self._make_room(rows, grid)
        return self._labels[rows]

    def write(self, rows: Rows, labels: Labels, reliability: Reliability) -> None:
        """Replace the labels (n, models, h, w) and reliabilities (n,) of ``rows``; of one named twice the last counts.

        Raises:
            LabelMemoryError: the labels are kept on another grid.
        """
        self._make_room(rows, labels.shape[2:])
        self._before.append((rows, self._labels[rows], self._reliability[rows]))
        self._labels[rows], self._reliability[rows] = labels, reliability

    def mark(self) -> None:
        """Note this state, for `undo`."""
        self._before = []

    def undo(self) -> None:
        """Take back what was written since `mark`."""
        while self._before:
            rows, labels, reliability = self._before.pop()
            self._labels[rows], self._reliability[rows] = labels, reliability

    def get_extra_state(self) -> dict[str, Any]:
        """All labels and reliabilities, as tensors that share the memory's own."""
        return {"labels": torch.from_numpy(self._labels), "reliability": torch.from_numpy(self._reliability)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Replace all labels and reliabilities."""
        self._labels, self._reliability = (state[key].numpy().copy() for key in ("labels", "reliability"))
        self._before = []

    def _make_room(self, rows: Rows, grid: tuple[int, ...]) -> None:
        known, kept = len(self._labels), self._labels.shape[2:]
        if known and kept != grid:
            raise LabelMemoryError(f"labels are kept on a grid of {kept}, where {grid} is asked for")
        missing = int(rows.max(initial=-1)) + 1 - known
        if missing > 0:
            new = np.full((missing, self._models, *grid), np.nan, np.float16)
            self._labels = np.concatenate([self._labels, new]) if known else new
            self._reliability = np.pad(self._reliability, (0, missing), constant_values=np.nan)
