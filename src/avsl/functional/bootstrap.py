"""Intervals by resampling the test rows."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 22


def bootstrap_interval(values: Tensor, level: float = 0.95, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979).

    It says how far a score would move with other test rows, and nothing of other seeds, splits or trainings. Rows are
    drawn one by one: where several share a recording, the interval is too narrow.

    Args:
        values: (N,), one for each row; of a success rate, whether it succeeded.
        level: share of the resampled means inside, in (0, 1).
        draws: resampled sets.
        seed: of the draws.

    Returns:
        the lower and the upper end.

    Raises:
        ValueError: there is no value, one is not finite, or ``level`` is not between 0 and 1.
    """
    if values.ndim != 1 or not len(values) or not bool(values.isfinite().all()):
        raise ValueError(f"a bootstrap needs finite values, one for each row, got shape {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _CHUNK // len(values))
    means = [
        values[torch.randint(len(values), (min(at_once, draws - start), len(values)), generator=generator)].mean(1)
        for start in range(0, draws, at_once)
    ]
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
