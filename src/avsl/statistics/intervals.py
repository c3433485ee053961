"""Intervals of mean scores over test recordings and over seeds.

Samples of one recording resemble each other, so recordings are the units, never samples. Where methods were trained
with several seeds, a mean score varies with both: with the seeds (weights and labeled samples) and with the recordings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Values resampled at a time.
_BATCH = 1 << 22


@dataclass(frozen=True)
class Variances:
    """Variance components of scores of S seeds on the same R recordings.

    Attributes:
        seeds: variance of a seed's effect; NaN with a single seed.
        recordings: variance of a recording's effect; with a single seed that of the interaction too.
        interaction: variance of what is left: of a seed on a recording; NaN with a single seed.
        n_seeds: S.
        n_recordings: R.
    """

    seeds: float
    recordings: float
    interaction: float
    n_seeds: int
    n_recordings: int

    def standard_error(
        self, n_seeds: NDArray[np.int64] | int, n_recordings: NDArray[np.int64] | int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Standard error of the mean, and its degrees of freedom (Satterthwaite), for other numbers of both.

        The numbers broadcast; with a single seed the seeds' share is unknown and left out.
        """
        share_seeds = (self.seeds + self.interaction / n_recordings) / n_seeds if self.n_seeds > 1 else np.zeros(())
        share_recordings = np.asarray(self.recordings / n_recordings)
        variance = np.asarray(share_seeds + share_recordings)
        spread = share_recordings**2 / (np.asarray(n_recordings) - 1)
        if self.n_seeds > 1:
            spread = spread + share_seeds**2 / (np.asarray(n_seeds) - 1)
        freedom = np.divide(variance**2, spread, out=np.ones_like(variance), where=spread > 0)
        return np.sqrt(variance), freedom


@dataclass(frozen=True)
class Summary:
    """The mean score of a method and how far it may be off.

    Attributes:
        mean: over seeds and samples.
        sd: standard deviation of the seeds' means; NaN with a single seed.
        low: lower end of the interval; NaN with a single recording.
        high: upper end.
        variances: from which the interval comes.
    """

    mean: float
    sd: float
    low: float
    high: float
    variances: Variances

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return self.variances.n_seeds

    def reversed(self) -> Summary:
        """The difference with its methods exchanged."""
        return Summary(-self.mean, self.sd, -self.high, -self.low, self.variances)


def bootstrap_interval(
    values: ArrayLike, recordings: Sequence[Hashable], level: float = 0.95, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean over samples, by resampling recordings (`scipy.stats.bootstrap`).

    It says how far the score of one training would move with other test recordings, and nothing about other seeds.
    With a single recording there is nothing to resample, and both ends are the mean.

    Args:
        values: (N,), one per sample; for a success rate, whether the sample succeeded.
        recordings: (N,) the recording of each sample.
        level: share of the resampled means inside the interval, in (0, 1).
        draws: number of resampled sets.
        seed: of the draws.

    Raises:
        ValueError: there is no value, one is not finite, the lengths differ, or ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    sums, counts = group_by_recording(np.asarray(values, np.float64)[None], recordings)
    if len(counts) == 1:
        mean = float(sums[0, 0] / counts[0])
        return mean, mean
    found = stats.bootstrap(
        (sums[0], counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=draws,
        batch=max(1, _BATCH // len(counts)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def summarize_seeds(scores: ArrayLike, recordings: Sequence[Hashable], level: float = 0.95) -> Summary:
    """Mean, SD over seeds and interval of a method's score.

    The interval holds for other seeds and other recordings: Student's t on the variance components of a two-way layout
    (seeds × recordings). Deviating from a bootstrap of both, as the percentiles of three resampled seeds cover the true
    mean in 3 of 4 cases where they promise 19 of 20. A 95 % interval of two seeds covers about 91 %. With a single seed
    it holds for other recordings alone, and with a single recording its ends are NaN.

    Args:
        scores: (S, N), a row per seed, a column per test sample, or differences of two methods.
        recordings: (N,) the recording of each sample.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: there is no score, one is not finite, the lengths differ, or ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    sums, counts = group_by_recording(np.asarray(scores, np.float64), recordings)
    n_seeds, n_recordings = sums.shape
    means = sums.sum(1) / counts.sum()
    mean, sd = float(means.mean()), float(means.std(ddof=1)) if n_seeds > 1 else math.nan
    if n_recordings == 1:
        return Summary(mean, sd, math.nan, math.nan, Variances(math.nan, math.nan, math.nan, n_seeds, 1))
    # What each recording contributes to a seed's mean, linearized, as recordings differ in their number of samples.
    parts = means[:, None] + (sums - means[:, None] * counts) * (n_recordings / counts.sum())
    variances = _variances(parts)
    error, freedom = variances.standard_error(n_seeds, n_recordings)
    half = float(error * stats.t.ppf((1 + level) / 2, freedom))
    return Summary(mean, sd, mean - half, mean + half, variances)


def _variances(parts: NDArray[np.float64]) -> Variances:
    """Variance components of (S, R) values; negative estimates become 0."""
    n_seeds, n_recordings = parts.shape
    by_recording = float(parts.mean(0).var(ddof=1))
    if n_seeds == 1:
        return Variances(math.nan, by_recording, math.nan, n_seeds, n_recordings)
    rest = parts - parts.mean(0) - parts.mean(1, keepdims=True) + parts.mean()
    interaction = float((rest**2).sum() / ((n_seeds - 1) * (n_recordings - 1)))
    seeds = max(float(parts.mean(1).var(ddof=1)) - interaction / n_recordings, 0.0)
    recordings = max(by_recording - interaction / n_seeds, 0.0)
    return Variances(seeds, recordings, interaction, n_seeds, n_recordings)


def group_by_recording(
    scores: NDArray[np.float64], recordings: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(S, R) sums and (R,) counts of (S, N) scores."""
    if scores.ndim != 2 or not scores.size or scores.shape[1] != len(recordings) or not np.isfinite(scores).all():
        raise ValueError(
            "finite scores are needed, one per sample with its recording, got scores of shape "
            f"{scores.shape} and {len(recordings)} recordings"
        )
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(recording, len(numbers)) for recording in recordings])
    sums = np.stack([np.bincount(index, row, len(numbers)) for row in scores]).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)
