"""Shared parts of metrics over samples: checks of their input, and one stored value per sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from avsl.functional import localization as F


def validate(maps: Tensor, truth: Tensor, *, silent: bool = False) -> None:
    """Check the input of a score.

    Args:
        maps: (B, h, w).
        truth: (B, H, W).
        silent: whether a truth may be empty.

    Raises:
        ValueError: shapes do not pair up, a map is not finite, or a truth is empty although ``silent`` is False.
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
            f"cIoU is not defined for the empty truth of sample {int(empty.nonzero()[0])} of the batch: leave it out"
        )


def _refuse_infinite(maps: Tensor) -> None:
    # The extremes are not finite where any pixel is not, and are computed far faster than isfinite() of every pixel.
    if maps.numel() and not bool(torch.stack([maps.amin(), maps.amax()]).isfinite().all()):
        raise ValueError("a confidence map holds a value that is not finite")


class SampleMetric(Metric):
    """A metric that stores one value per sample in columns of a fixed length.

    The columns are allocated at the start. Appending a small tensor per batch would fragment the heap: between the
    large tensors of each batch the process would grow by about one map per sample.

    Args:
        n: number of samples.
        columns: name and type of each column; NaN or 0 before a sample is added.
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
