"""What metrics over samples share: checks, and columns with a number per sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from avsl.functional import localization as F


def validate(maps: Tensor, truth: Tensor, *, silent: bool = False) -> None:
    """Refuse what cannot be scored.

    Args:
        maps: (B, h, w).
        truth: (B, H, W).
        silent: whether a truth may be empty.

    Raises:
        ValueError: shapes do not pair up, a map is not finite, or a truth is empty where it must not be.
    """
    if maps.ndim != 3 or truth.ndim != 3 or len(maps) != len(truth):
        raise ValueError(
            f"maps (B, h, w) and truth (B, H, W) must pair up, got {tuple(maps.shape)} and {tuple(truth.shape)}"
        )
    _refuse_infinite(maps)
    if silent:
        return
    empty = F.count(truth) == 0
    if bool(empty.any()):
        raise ValueError(
            f"cIoU is not defined for the empty truth of row {int(empty.nonzero()[0])}: leave such rows out"
        )


def _refuse_infinite(maps: Tensor) -> None:
    # The extremes tell of every pixel, NaN included, and take far less time than looking at each.
    if maps.numel() and not bool(torch.stack([maps.amin(), maps.amax()]).isfinite().all()):
        raise ValueError("a confidence map holds a value that is not finite")


class SampleMetric(Metric):
    """Keeps what is measured of each of ``n`` samples, in columns that are there from the start.

    Small tensors kept from between large ones that come and go would tear the heap to pieces: the process would grow
    by a frame's map for each sample.

    Args:
        n: number of samples to come.
        columns: name and type of each column; a number per sample, NaN or 0 where nothing was put.
    """

    full_state_update = False
    filled: Tensor

    def __init__(self, n: int, columns: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        self.add_state("filled", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name, dtype in columns.items():
            empty = torch.nan if dtype.is_floating_point else 0
            self.add_state(name, torch.full((n,), empty, dtype=dtype), dist_reduce_fx="cat")

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Add samples: (B, ...) values by column."""
        start = int(self.filled)
        for name, value in values.items():
            getattr(self, name)[start : start + len(value)] = value
        self.filled += len(next(iter(values.values())))
