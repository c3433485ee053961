"""Scores over the number of labels: a power law with offset, its uncertainty, and its inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from avsl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = 4.0
"""A forecast for more than so many times the labels seen is a guess."""
FEWEST = 3
"""Numbers of labels that a curve needs."""
_RESAMPLES = 200
_SLOPES = (0.2, 0.5, 1.0)
_STEEPEST = 3.0


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        labels: it learned from.
        score: in [0, 1].
        rows: that were scored.
    """

    labels: int
    score: float
    rows: int


@dataclass(frozen=True)
class Curve:
    """score(n) = limit − drop · (n / scale)^−slope.

    Attributes:
        limit: where it ends, in [0, 1].
        drop: how far below the limit it is at ``scale`` labels, >= 0.
        slope: in [0, 3].
        scale: labels.
    """

    limit: float
    drop: float
    slope: float
    scale: float

    def score(self, labels: float) -> float:
        """Return the score at a number of labels."""
        return float(self.limit - self.drop * (labels / self.scale) ** -self.slope)

    def labels(self, score: float) -> float:
        """Return the number of labels at which the curve reaches a score; infinity if it never does.

        Examples:
            >>> round(Curve(limit=0.9, drop=0.4, slope=0.5, scale=100).labels(0.7), 6)
            400.0
        """
        if score >= self.limit or self.slope <= 0:
            return math.inf if score > self.score(1.0) else 1.0
        if self.drop <= 0:
            return 1.0
        with np.errstate(over="ignore"):
            return max(1.0, float(self.scale * np.float64((self.limit - score) / self.drop) ** (-1 / self.slope)))


@dataclass(frozen=True)
class Forecast:
    """A curve fitted to runs, and curves fitted to bootstrap samples of them.

    Attributes:
        curve: the fitted one.
        others: one for each resample.
        most: labels of the run with the most.
    """

    curve: Curve
    others: Sequence[Curve]
    most: int

    def score(self, labels: float) -> tuple[float, float, float]:
        """Return the score at a number of labels, with its 95 % interval."""
        low, high = np.percentile([other.score(labels) for other in self.others], [2.5, 97.5])
        return self.curve.score(labels), float(low), float(high)

    def labels(self, score: float) -> tuple[float, float, float]:
        """Return the number of labels that a score needs, with its 95 % interval; infinity if it is never reached."""
        needed = np.sort([other.labels(score) for other in self.others])
        low, high = (needed[round(share * (len(needed) - 1))] for share in (0.025, 0.975))
        return self.curve.labels(score), float(low), float(high)

    def is_far(self, labels: float) -> bool:
        """Return whether a number of labels is more than `FAR` times the largest one of the runs."""
        return labels > FAR * self.most


def forecast(runs: Sequence[Run], seed: int = 0) -> Forecast:
    """Fit the curve.

    A resample draws, for each number of labels, as many of its runs with replacement, and moves each score by what the
    number of scored rows leaves open. A single run of a number of labels is also moved by the standard deviation of the
    runs of the others, pooled; where none has several runs, the interval leaves out what another seed would change.

    Args:
        runs: of one method, of at least three numbers of labels.
        seed: of the resamples.

    Raises:
        DataError: there are fewer.
    """
    counts = sorted({run.labels for run in runs})
    if len(counts) < FEWEST:
        raise DataError(f"a learning curve needs runs of {FEWEST} numbers of labels, here there are {len(counts)}")
    curve = _fit(runs, None)
    rng = np.random.default_rng(seed)
    by_count = [[run for run in runs if run.labels == count] for count in counts]
    variances = [np.var([run.score for run in group], ddof=1) for group in by_count if len(group) > 1]
    spread = float(np.sqrt(np.mean(variances))) if variances else 0.0

    def move(run: Run, alone: bool) -> Run:
        score = float(np.clip(run.score + alone * spread * rng.standard_normal(), 0, 1))
        return replace(run, score=float(rng.binomial(run.rows, score) / run.rows))

    others = []
    for _ in range(_RESAMPLES):
        drawn = [
            (group[int(k)], len(group) == 1) for group in by_count for k in rng.integers(len(group), size=len(group))
        ]
        others.append(_fit([move(*one) for one in drawn], curve))
    return Forecast(curve, others, counts[-1])


def _fit(runs: Sequence[Run], start: Curve | None) -> Curve:
    """Fit by least squares, with the limit in [0, 1], a drop >= 0 and a slope in [0, 3]."""
    labels = np.array([run.labels for run in runs], dtype=np.float64)
    scores = np.array([run.score for run in runs])
    scale = float(np.exp(np.log(labels).mean()))
    x = labels / scale

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        limit, drop, slope = values
        found: NDArray[np.float64] = limit - drop * x**-slope - scores
        return found

    top, spread = min(0.999, scores.max() + 0.01), max(1e-3, float(np.ptp(scores)))
    starts = [(top, spread, slope) for slope in _SLOPES] if start is None else [(start.limit, start.drop, start.slope)]
    bounds = ([0.0, 0.0, 0.0], [1.0, np.inf, _STEEPEST])
    fits = [least_squares(residuals, np.clip(begin, *bounds), bounds=bounds) for begin in starts]
    limit, drop, slope = min(fits, key=lambda fit: fit.cost).x.tolist()
    return Curve(limit, drop, slope, scale)


@dataclass(frozen=True)
class BackTest:
    """A forecast from fewer labels, beside the result.

    Attributes:
        seen: the most labels of the runs that it was made from.
        labels: forecast for.
        forecast: the score.
        low: lower end of its 95 % interval.
        high: upper end.
        measured: mean score of the runs.
    """

    seen: int
    labels: int
    forecast: float
    low: float
    high: float
    measured: float


def back_test(runs: Sequence[Run]) -> list[BackTest]:
    """Forecast the runs with more labels from those with fewer; none if there are three numbers of labels or fewer."""
    counts = sorted({run.labels for run in runs})
    tests = []
    for k in range(FEWEST, len(counts)):
        made = forecast([run for run in runs if run.labels <= counts[k - 1]])
        for count in counts[k:]:
            measured = float(np.mean([run.score for run in runs if run.labels == count]))
            tests.append(BackTest(counts[k - 1], count, *made.score(count), measured))
    return tests
