"""Whether as many seeds or samples as the plan says do tell a difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avsl.statistics import plan, summarize_seeds
from avsl.statistics.intervals import Summary, Variances


def difference(mean: float, *, seeds: float, recordings: float, n_seeds: int = 3, n_recordings: int = 100) -> Summary:
    """A difference with the given standard deviations."""
    variances = Variances(seeds**2, recordings**2, 0.0, n_seeds, n_recordings)
    return Summary(mean, seeds, float("nan"), float("nan"), variances)


def test_as_many_seeds_as_planned_tell_the_difference_four_times_in_five() -> None:
    """Made studies with so many seeds exclude 0 with the power promised."""
    found = difference(0.05, seeds=0.04, recordings=0.0)
    needed = plan(found).more_seeds
    assert needed is not None
    assert needed > 0
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(400):
        seeds = rng.normal(0.05, 0.04, (3 + needed, 1))
        told += summarize_seeds(seeds + rng.normal(0, 1e-6, (3 + needed, 100)), range(100)).low > 0
    assert 0.72 <= told / 400 <= 0.92


def test_the_larger_share_of_the_variance_says_what_helps() -> None:
    """Seeds do not help where recordings limit, nor the other way round; a smaller difference needs more."""
    by_recordings = plan(difference(0.02, seeds=0.001, recordings=0.3))
    assert by_recordings.more_seeds is None
    assert by_recordings.times_recordings is not None
    by_seeds = plan(difference(0.02, seeds=0.03, recordings=0.01))
    assert by_seeds.more_seeds is not None
    assert by_seeds.times_recordings is None
    # The normal approximation: (1.96 + 0.84)² variances over the squared difference.
    assert by_recordings.times_recordings * 100 == pytest.approx((2.8 * 0.3 / 0.02) ** 2, rel=0.1)
    smaller = plan(difference(0.01, seeds=0.03, recordings=0.01)).more_seeds
    assert smaller is not None
    assert smaller > by_seeds.more_seeds


def test_what_is_told_already_needs_nothing_more() -> None:
    """No further seed, no further recording; more pairs ask for more; no difference is never told."""
    clear = difference(0.5, seeds=0.01, recordings=0.01)
    assert (plan(clear).more_seeds, plan(clear).times_recordings) == (0, 1)
    close = difference(0.05, seeds=0.04, recordings=0.01)
    one, fifteen = plan(close).more_seeds, plan(close, pairs=15).more_seeds
    assert one is not None
    assert fifteen is not None
    assert fifteen > one
    nothing = plan(replace(close, mean=0.0))
    assert (nothing.more_seeds, nothing.times_recordings) == (None, None)


def test_a_single_seed_says_nothing_of_others() -> None:
    """More recordings can be planned from it, seeds cannot; impossible levels are refused."""
    single = summarize_seeds(np.random.default_rng(1).normal(0.1, 1, (1, 200)), range(200))
    found = plan(single)
    assert found.more_seeds is None
    assert found.times_recordings is not None
    with pytest.raises(ValueError, match="between 0 and 1"):
        plan(single, power=1.0)
