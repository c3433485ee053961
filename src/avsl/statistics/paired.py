"""Paired comparisons of methods over the same seeds and test samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from avsl.statistics.intervals import Summary, group_by_recording, summarize_seeds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Verdict = Literal["better", "not told apart", "worse", "no verdict"]

# Values permuted at a time.
_BATCH = 1 << 22


@dataclass(frozen=True)
class Pair:
    """Two methods over the seeds that both have.

    Attributes:
        first: a method.
        second: another.
        seeds: that both have.
        difference: first − second: mean, SD over seeds and interval; the interval is of this pair alone.
        p_value: of no difference, corrected for the number of pairs; of a single seed, of other recordings alone.
        verdict: of the first about the second; none with a single seed, as that difference is of two trainings.
    """

    first: str
    second: str
    seeds: Sequence[int]
    difference: Summary
    p_value: float
    verdict: Verdict


def compare_pairs(
    scores: Mapping[str, Mapping[int, ArrayLike]],
    recordings: Sequence[Hashable],
    level: float = 0.95,
    *,
    permutations: int = 4999,
    seed: int = 0,
) -> list[Pair]:
    """Compare every pair of methods over the seeds that both have.

    A pair's p-value is the larger of two: whether the difference would be there on other recordings (a permutation test
    that swaps the two methods' scores of whole recordings, `scipy.stats.permutation_test`), and whether with other
    seeds and recordings (Student's t on the variance components of `summarize_seeds`). Holm's correction over the pairs
    makes the chance of any wrong "better" or "worse" at most 1 − ``level``.

    Args:
        scores: by method and seed (N,), one per test sample, the same samples for all.
        recordings: (N,) the recording of each sample.
        level: of the intervals and verdicts, in (0, 1).
        permutations: per pair, at least; more where the smallest p-value that they can give would not pass.
        seed: of the permutations.

    Returns:
        A comparison per pair, in the order of the methods; none of a pair without a common seed.

    Raises:
        ValueError: the numbers of samples differ, or a score is not finite; see also `summarize_seeds`.
    """
    common = {
        (first, second): seeds
        for first, second in combinations(scores, 2)
        if (seeds := sorted(scores[first].keys() & scores[second].keys()))
    }
    permutations = max(permutations, math.ceil(4 * len(common) / (1 - level)))
    summaries, raw = [], []
    for (first, second), seeds in common.items():
        ours, theirs = (np.stack([np.asarray(scores[m][s], np.float64) for s in seeds]) for m in (first, second))
        if ours.shape != theirs.shape:
            raise ValueError(
                f"'{first}' and '{second}' must have the same samples, got {ours.shape[1]} and {theirs.shape[1]}"
            )
        summaries.append(summarize_seeds(ours - theirs, recordings, level))
        raw.append(max(_permutation_p(ours - theirs, recordings, permutations, seed), _t_p(summaries[-1])))
    found = []
    for (names, seeds), summary, p_value in zip(common.items(), summaries, holm(raw).tolist(), strict=True):
        verdict: Verdict = "no verdict" if len(seeds) == 1 else "not told apart"
        if p_value <= 1 - level and len(seeds) > 1:
            verdict = "better" if summary.mean > 0 else "worse"
        found.append(Pair(*names, seeds, summary, p_value, verdict))
    return found


def tied_groups(pairs: Sequence[Pair]) -> list[list[str]]:
    """The largest groups of two or more methods that the tests do not tell apart, in the order of the pairs.

    A method may be in several: a and b may not be told apart, nor b and c, although a is better than c.
    """
    near: dict[str, set[str]] = {}
    for pair in pairs:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            near.setdefault(one, set()).update({other} if pair.verdict == "not told apart" else ())
    groups: set[frozenset[str]] = set()
    for name, others in near.items():
        grown = groups | {group & others | {name} for group in groups} | {frozenset([name])}
        groups = {group for group in grown if not any(group < other for other in grown)}
    order = list(near)
    placed = sorted(sorted(map(order.index, group)) for group in groups if len(group) > 1)
    return [[order[place] for place in group] for group in placed]


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
    if variances.n_recordings == 1:
        return 1.0
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
