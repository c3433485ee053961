"""The sweep over candidate thresholds: which one is chosen, and what a choice scores on other recordings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avsl.functional import localization as F
from avsl.metrics.samples import validate

CANDIDATE_THRESHOLDS: Final = tuple(step / 100 for step in range(1, 100))
"""What `ThresholdSweep` tries: 0.01, 0.02, …, 0.99."""

SMOOTHING: Final = 0.05
"""Standard deviation of the Gaussian that smooths the rate over the candidates.

Of 300 rows a half chose the threshold and the other was scored (200 draws of the halves): over no smoothing 7 trained
models gained 0.46 points and 4 self-supervised ones 0.16, and the optimism of the half that chose fell from 2.2 to 1.0
and from 2.8 to 1.3 points. A deviation of 0.02 gained 0.16 and lost 0.13, one of 0.07 gained 0.60 and 0.38; so wide a
kernel would miss the good thresholds of a model that has them within a few hundredths.
"""


class ThresholdSweep(Metric):
    """CIoU@0.5 of the confidence at each candidate threshold; chooses the fixed threshold on validation.

    The best of 99 rates of few rows is too good: its threshold fits these rows. So the choice is made on the rate
    smoothed over neighboring candidates, and :meth:`cross_fitted` scores each half of the recordings at the threshold
    that the other half chooses.

    Args:
        thresholds: candidates, rising.

    Raises:
        ValueError: the candidates do not rise.

    Examples:
        >>> sweep = ThresholdSweep()
        >>> truth = torch.zeros(1, 4, 4)
        >>> truth[:, :2] = 1
        >>> sweep.update(0.4 + 0.2 * truth, truth, recording=torch.tensor([0]))
        >>> sweep.best()
        0.3
    """

    higher_is_better = True
    full_state_update = False
    thresholds: Tensor
    successes: list[Tensor]
    sounding: list[Tensor]
    recording: list[Tensor]

    def __init__(self, thresholds: Sequence[float] = CANDIDATE_THRESHOLDS) -> None:
        super().__init__()
        if not thresholds or any(a >= b for a, b in pairwise(thresholds)):
            raise ValueError("the candidate thresholds must rise")
        self.candidates = tuple(thresholds)
        self.register_buffer("thresholds", torch.tensor(self.candidates), persistent=False)
        for name in ("successes", "sounding", "recording"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, truth: Tensor, recording: Tensor) -> None:
        """Add samples; those with an empty truth do not count.

        Args:
            maps: (B, h, w) confidence in [0, 1].
            truth: (B, H, W) in [0, 1].
            recording: (B,) int64, equal for samples of one recording.

        Raises:
            ValueError: shapes do not pair up, or a map is not finite.
        """
        validate(maps, truth, silent=True)
        self.successes.append(F.ciou_by_threshold(maps, truth, self.thresholds) >= 0.5)
        self.sounding.append(F.count(truth) > 0)
        self.recording.append(recording)

    def compute(self) -> Tensor:
        """CIoU@0.5 at every candidate, (T,) float64.

        Raises:
            ValueError: there is no sample with a truth.
        """
        successes, sounding, _ = self._samples()
        return _rates(successes[sounding])

    def best(self) -> float:
        """The candidate with the highest smoothed CIoU@0.5."""
        successes, sounding, _ = self._samples()
        return self.candidates[self._choose(successes[sounding])]

    def cross_fitted(self) -> Tensor:
        """The threshold of each sample, (N,) float64: what the half of the recordings that it is not in chooses.

        Every sample counts, those without a truth too. Where fewer than two recordings have a truth there are no
        halves, and each threshold is that of :meth:`best`.
        """
        successes, sounding, recording = self._samples()
        chosen = self._exact()
        if not self.has_halves():
            return chosen[self._choose(successes[sounding])].expand(len(recording))
        half = halves(recording, sounding)
        other = torch.tensor([self._choose(successes[sounding & (half != side)]) for side in (0, 1)])
        return chosen[other[half]]

    def has_halves(self) -> bool:
        """Whether two recordings have a truth, so that each sample is scored at others' threshold."""
        _, sounding, recording = self._samples()
        return len(torch.unique(recording[sounding])) > 1

    def cross_fitted_rate(self) -> Tensor:
        """CIoU@0.5 at each sample's own :meth:`cross_fitted` threshold, () float64."""
        successes, sounding, _ = self._samples()
        column = torch.searchsorted(self._exact(), self.cross_fitted().contiguous())
        return successes.gather(1, column[:, None])[sounding].double().mean()

    def _exact(self) -> Tensor:
        return torch.tensor(self.candidates, dtype=torch.float64)

    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self.successes or not bool(dim_zero_cat(self.sounding).any()):
            raise ValueError("a threshold cannot be chosen without a sample")
        successes, sounding, recording = (
            dim_zero_cat(state).cpu() for state in (self.successes, self.sounding, self.recording)
        )
        return successes, sounding, recording

    def _choose(self, successes: Tensor) -> int:
        """The index of the highest smoothed rate; of equal ones the middle of the longest unbroken run.

        Of runs of equal length the lowest counts, and of an even run the lower middle.
        """
        rates: list[float] = smooth_rates(self._exact(), _rates(successes)).tolist()
        top = max(rates) - 1e-9  # sums in another order
        start, longest = 0, range(0)
        for index, rate in enumerate(rates):
            if rate < top:
                start = index + 1
            elif index + 1 - start > len(longest):
                longest = range(start, index + 1)
        return longest[(len(longest) - 1) // 2]


def _rates(successes: Tensor) -> Tensor:
    return successes.double().mean(0)


def smooth_rates(thresholds: Tensor, rates: Tensor) -> Tensor:
    """The sum of (T,) rates around each of (T,) thresholds, weighted by a Gaussian of `SMOOTHING`; (T,) float64.

    Beyond the candidates the rate counts as 0, so that the middle of a plateau is best even where it ends with them.
    """
    distance = (thresholds[:, None] - thresholds) / SMOOTHING
    return torch.exp(-(distance**2) / 2) @ rates


def halves(recording: Tensor, sounding: Tensor) -> Tensor:
    """Which half of the recordings each sample is in, (N,) int64 in {0, 1}; seeded, whatever the samples' order.

    Each half has as many recordings with a truth as the other, or one more.

    Args:
        recording: (N,) int64, equal for samples of one recording.
        sounding: (N,) bool, whether a sample has a truth.
    """
    numbers, of = torch.unique(recording, return_inverse=True)
    has_truth = torch.zeros(len(numbers), dtype=torch.bool)
    has_truth[of[sounding]] = True
    first, last = has_truth.nonzero().flatten(), (~has_truth).nonzero().flatten()
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))
    dealt = torch.cat([first[order], last])
    side = torch.empty(len(numbers), dtype=torch.long)
    side[dealt] = torch.arange(len(numbers)) % 2
    return side[of]
