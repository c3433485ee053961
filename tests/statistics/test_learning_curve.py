"""Learning curves over the number of labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.errors import DataError
from avsl.statistics.learning_curve import Curve, Run, back_test, forecast

_TRUE = Curve(limit=0.85, drop=0.3, slope=0.6, scale=100)


def _runs(counts: list[int], rows: int = 100_000, noise: float = 0.0, seeds: int = 1) -> list[Run]:
    rng = np.random.default_rng(0)
    return [Run(n, _TRUE.score(n) + noise * rng.standard_normal(), rows) for n in counts for _ in range(seeds)]


def test_an_exact_curve_is_found_and_inverted() -> None:
    """From points on it; the labels of a score lead back to the score."""
    made = forecast(_runs([30, 90, 300, 900]))
    assert (made.curve.limit, made.curve.slope) == pytest.approx((0.85, 0.6), abs=0.01)
    assert made.score(2000)[0] == pytest.approx(_TRUE.score(2000), abs=0.005)
    for target in (0.6, 0.8):
        assert made.curve.score(made.labels(target)[0]) == pytest.approx(target)
    assert math.isinf(made.labels(0.9)[0])


def test_intervals_hold_the_truth_and_shrink_with_the_rows_scored() -> None:
    """And widen with the distance; one run for each number of labels is not certain either."""
    few, many = (forecast(_runs([30, 90, 300, 900], rows)) for rows in (200, 20_000))
    for made in (few, many):
        _, low, high = made.score(2000)
        assert low <= _TRUE.score(2000) <= high
    widths = [high - low for _, low, high in (few.score(2000), many.score(2000), many.score(300))]
    assert widths[0] > 2 * widths[1] > 2 * widths[2] > 0
    _, low, high = many.labels(0.8)
    assert low < _TRUE.labels(0.8) < high


def test_runs_that_spread_widen_the_interval() -> None:
    """Seeds are resampled within each number of labels."""
    calm, wild = (forecast(_runs([30, 90, 300], noise=noise, seeds=4)) for noise in (0.0, 0.05))
    assert np.subtract(*calm.score(600)[:0:-1]) < np.subtract(*wild.score(600)[:0:-1])


def test_scores_that_fall_give_no_rising_curve() -> None:
    """More labels that bring nothing are not forecast to bring something."""
    made = forecast([Run(n, score, 1000) for n, score in ((10, 0.6), (100, 0.55), (1000, 0.5))])
    assert made.score(4000)[0] == pytest.approx(0.55, abs=0.01)
    assert math.isinf(made.labels(0.7)[0])


def test_far_is_beyond_four_times_the_labels_seen() -> None:
    """Counted from the most labels of a run."""
    made = forecast(_runs([30, 60, 100]))
    assert not made.is_far(400)
    assert made.is_far(401)


def test_two_numbers_of_labels_are_too_few() -> None:
    """However many runs there are."""
    with pytest.raises(DataError, match=facts("3 2")):
        forecast(_runs([30, 60], seeds=5))


def test_the_back_test_forecasts_what_was_measured() -> None:
    """From the first three numbers of labels on, each later one."""
    tests = back_test(_runs([30, 90, 300, 900, 3000]))
    assert [(test.seen, test.labels) for test in tests] == [(300, 900), (300, 3000), (900, 3000)]
    for test in tests:
        assert test.forecast == pytest.approx(test.measured, abs=0.03)
        assert test.measured == pytest.approx(_TRUE.score(test.labels))
    assert back_test(_runs([30, 90, 300])) == []
