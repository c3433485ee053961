"""Intervals on made data whose true mean is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.messages import facts

from avsl.statistics import bootstrap_interval, summarize_seeds


def made(
    rng: np.random.Generator, n_seeds: int, n_recordings: int, *, seeds: float, recordings: float, rest: float
) -> tuple[NDArray[np.float64], list[int]]:
    """(S, 2 R) scores around 0 with the given SD of each effect; two samples per recording."""
    owner = np.repeat(np.arange(n_recordings), 2)
    effects = rng.normal(0, seeds, (n_seeds, 1)) + rng.normal(0, recordings, n_recordings)[owner]
    return effects + rng.normal(0, rest, (n_seeds, 2 * n_recordings)), owner.tolist()


def test_bootstrap_is_the_normal_interval_where_that_holds() -> None:
    """With many recordings the mean is nearly normal, so its interval is known."""
    hits = np.arange(1000) % 10 < 3
    half = math.sqrt(0.3 * 0.7 / 1000)
    for level, widths in ((0.95, 1.95996), (0.5, 0.67449)):
        low, high = bootstrap_interval(hits, range(1000), level, draws=4000)
        assert (low, high) == pytest.approx((0.3 - widths * half, 0.3 + widths * half), abs=0.1 * half)


def test_bootstrap_resamples_recordings() -> None:
    """Ten equal samples of each recording say no more than one; resampled one by one they seem to."""
    values = np.random.default_rng(0).normal(size=50)
    once = bootstrap_interval(values, range(50))
    tenfold = bootstrap_interval(np.repeat(values, 10), np.repeat(np.arange(50), 10).tolist())
    alone = bootstrap_interval(np.repeat(values, 10), range(500))
    assert tenfold == pytest.approx(once)
    assert alone[1] - alone[0] < 0.5 * (once[1] - once[0])


def test_bootstrap_of_equal_values_or_one_recording_is_a_point() -> None:
    """Nothing to resample; otherwise the seed decides the draws."""
    assert bootstrap_interval(np.full(7, 0.25), range(7)) == (0.25, 0.25)
    assert bootstrap_interval([0.0, 1.0], ["a", "a"]) == (0.5, 0.5)
    values = [0.0, 1.0, 2.0, 5.0]
    assert bootstrap_interval(values, range(4)) == bootstrap_interval(values, range(4))
    assert bootstrap_interval(values, range(4), draws=50) != bootstrap_interval(values, range(4), draws=50, seed=1)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("seeds", "recordings"), [(1.0, 0.0), (0.1, 1.0), (0.2, 0.5)], ids=["seeds vary", "recordings vary", "both"]
)
def test_interval_covers_the_mean_as_often_as_it_says(n_seeds: int, seeds: float, recordings: float) -> None:
    """Of 400 studies, about 95 % of the intervals hold the true mean, whichever of the two varies."""
    rng = np.random.default_rng(n_seeds)
    held = 0
    for _ in range(400):
        found = summarize_seeds(*made(rng, n_seeds, 40, seeds=seeds, recordings=recordings, rest=0.5))
        held += found.low <= 0 <= found.high
    assert (0.89 if n_seeds == 2 else 0.925) <= held / 400 <= 0.995


def test_summary_by_hand() -> None:
    """Mean and SD over seeds; a single seed has no SD, a single recording no interval."""
    scores = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    found = summarize_seeds(scores, "abcc")
    assert (found.mean, found.n_seeds) == (0.625, 2)
    assert found.sd == pytest.approx(0.25 / math.sqrt(2))
    assert found.low < 0.625 < found.high
    alone = summarize_seeds(scores, "aaaa")
    assert (alone.mean, alone.sd) == (found.mean, found.sd)
    assert math.isnan(alone.low)
    single = summarize_seeds(scores[:1], "abcc")
    assert math.isnan(single.sd)
    assert single.low < 0.5 < single.high


def test_variance_components_are_those_that_were_made() -> None:
    """Estimates of many seeds and recordings come near to the variances drawn from."""
    scores, owner = made(np.random.default_rng(3), 200, 300, seeds=0.5, recordings=1.0, rest=math.sqrt(2))
    found = summarize_seeds(scores, owner).variances
    # The two samples of a recording are averaged, which halves the rest's variance of 2.
    assert (found.seeds, found.recordings, found.interaction) == pytest.approx((0.25, 1.0, 1.0), rel=0.2)


@pytest.mark.parametrize(
    ("values", "recordings", "level", "said"),
    [
        ([], [], 0.95, "finite scores"),
        ([0.0, math.nan], [0, 1], 0.95, "finite scores"),
        ([0.0, 1.0], [0], 0.95, "1 recordings"),
        ([0.0, 1.0], [0, 1], 1.0, "got 1.0"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], recordings: list[int], level: float, said: str) -> None:
    """No sample, a sample without a score, another number of recordings, an impossible level; for both intervals."""
    with pytest.raises(ValueError, match=facts(said)):
        bootstrap_interval(values, recordings, level)
    with pytest.raises(ValueError, match=facts(said)):
        summarize_seeds([values], recordings, level)


def test_a_reversed_difference_is_that_of_the_exchanged_methods() -> None:
    """Mean and interval change their sign, the spread does not."""
    rng = np.random.default_rng(0)
    scores = rng.random((3, 40)) - 0.3
    forward, backward = (summarize_seeds(sign * scores, range(40)) for sign in (1, -1))
    exchanged = forward.reversed()
    for name in ("mean", "sd", "low", "high"):
        assert getattr(exchanged, name) == pytest.approx(getattr(backward, name))
