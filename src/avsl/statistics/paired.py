"""Paired comparisons of methods over the same seeds and test samples."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from avsl.statistics.intervals import Summary, group_by_recording, summarize_seeds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Verdict = Literal["better", "not told apart", "worse"]

# Values permuted at a time.
_BATCH = 1 << 22


@dataclass(frozen=True)
class Comparison:
    """The paired difference of two methods, first − second.

    Attributes:
        first: a method.
        second: another.
        difference: mean, SD over seeds and interval of the difference; the interval is of this pair alone.
        p_value: of no difference, corrected for the number of pairs.
        verdict: of the first about the second.
    """

    first: str
    second: str
    difference: Summary
    p_value: float
    verdict: Verdict


def compare_pairs(
    scores: Mapping[str, ArrayLike],
    recordings: Sequence[Hashable],
    level: float = 0.95,
    *,
    permutations: int = 4999,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every pair of methods.

    A pair's p-value is the larger of two: whether the difference would be there on other recordings (a permutation test
    that swaps the two methods' scores of whole recordings, `scipy.stats.permutation_test`), and whether with other
    seeds and recordings (Student's t on the variance components of `summarize_seeds`). Holm's correction over the pairs
    makes the chance of any wrong "better" or "worse" at most 1 − ``level``. With a single seed no two methods are told
    apart: that difference is of two trainings.

    Args:
        scores: by method (S, N), a row per seed and a column per test sample, the same for all methods.
        recordings: (N,) the recording of each sample.
        level: of the intervals and verdicts, in (0, 1).
        permutations: per pair.
        seed: of the permutations.

    Returns:
        A comparison per pair, in the order of the methods.

    Raises:
        ValueError: the shapes differ, or a score is not finite; see also `summarize_seeds`.
    """
    tables = {name: np.asarray(table, np.float64) for name, table in scores.items()}
    shapes = {table.shape for table in tables.values()}
    if len(shapes) > 1:
        raise ValueError(f"the methods must have the same seeds and samples, got the shapes {sorted(shapes)}")
    pairs = list(combinations(tables, 2))
    summaries, raw = [], []
    for first, second in pairs:
        paired = tables[first] - tables[second]
        summaries.append(summarize_seeds(paired, recordings, level))
        raw.append(max(_permutation_p(paired, recordings, permutations, seed), _t_p(summaries[-1])))
    found = []
    for (first, second), summary, p_value in zip(pairs, summaries, holm(raw).tolist(), strict=True):
        verdict: Verdict = "not told apart"
        if p_value <= 1 - level and summary.n_seeds > 1:
            verdict = "better" if summary.mean > 0 else "worse"
        found.append(Comparison(first, second, summary, p_value, verdict))
    return found


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction (1979) of (M,) p-values; controls the chance of any false rejection.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    order = values.argsort()
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return corrected


def _t_p(summary: Summary) -> float:
    variances = summary.variances
    error, freedom = variances.standard_error(variances.n_seeds, variances.n_recordings)
    if not error:
        return 1.0 if summary.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(summary.mean) / error, freedom))


def _permutation_p(paired: NDArray[np.float64], recordings: Sequence[Hashable], permutations: int, seed: int) -> float:
    sums, _ = group_by_recording(paired, recordings)
    by_recording = sums.sum(0)
    by_recording = by_recording[by_recording != 0]  # swapping equal scores changes nothing
    if not len(by_recording):
        return 1.0
    found = stats.permutation_test(
        (by_recording,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, _BATCH // len(by_recording)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
