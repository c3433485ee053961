"""CIoU@0.5 over candidate thresholds; chooses the fixed one on validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric

from avsl.functional import localization as F
from avsl.metrics.samples import validate

CANDIDATE_THRESHOLDS: Final = tuple(step / 100 for step in range(1, 100))
"""What `ThresholdSweep` tries: 0.01, 0.02, …, 0.99."""


class ThresholdSweep(Metric):
    """CIoU@0.5 of the confidence at each candidate threshold, in one pass; chooses the fixed one on validation.

    Args:
        thresholds: candidates, rising.

    Raises:
        ValueError: the candidates do not rise.
    """

    higher_is_better = True
    full_state_update = False
    thresholds: Tensor
    successes: Tensor
    samples: Tensor

    def __init__(self, thresholds: Sequence[float] = CANDIDATE_THRESHOLDS) -> None:
        super().__init__()
        if not thresholds or any(a >= b for a, b in pairwise(thresholds)):
            raise ValueError("the candidate thresholds must rise")
        self.candidates = tuple(thresholds)
        self.register_buffer("thresholds", torch.tensor(self.candidates), persistent=False)
        self.add_state("successes", default=torch.zeros(len(thresholds), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w) confidence in [0, 1].
            truth: (B, H, W) in [0, 1], none of them empty.

        Raises:
            ValueError: shapes do not pair up, a map is not finite, or a truth is empty.
        """
        validate(maps, truth)
        self.successes += (F.ciou_by_threshold(maps, truth, self.thresholds) >= 0.5).sum(0)
        self.samples += len(maps)

    def compute(self) -> Tensor:
        """CIoU@0.5 at every candidate, (T,) float64.

        Raises:
            ValueError: there is no sample.
        """
        if int(self.samples) == 0:
            raise ValueError("a threshold cannot be chosen without a sample")
        return self.successes.double() / self.samples

    def best(self) -> float:
        """The candidate with the highest CIoU@0.5; of equal ones the middle of the longest unbroken run.

        Of runs of equal length the lowest counts, and of an even run the lower middle.
        """
        rates: list[float] = self.compute().tolist()
        top = max(rates)
        start, longest = 0, range(0)
        for index, rate in enumerate(rates):
            if rate < top:
                start = index + 1
            elif index + 1 - start > len(longest):
                longest = range(start, index + 1)
        return self.candidates[longest[(len(longest) - 1) // 2]]
