"""The bootstrap interval of a mean."""

from __future__ import annotations

import math

import pytest
import torch

from avsl.functional.bootstrap import bootstrap_interval


def test_it_is_the_normal_interval_where_that_holds() -> None:
    """With many rows the mean is nearly normal, so its interval is known."""
    hits = (torch.arange(1000) % 10 < 3).double()
    half = math.sqrt(0.3 * 0.7 / 1000)
    for level, widths in ((0.95, 1.95996), (0.5, 0.67449)):
        low, high = bootstrap_interval(hits, level, draws=4000)
        assert low == pytest.approx(0.3 - widths * half, abs=0.1 * half)
        assert high == pytest.approx(0.3 + widths * half, abs=0.1 * half)


def test_it_covers_the_mean_as_often_as_it_says() -> None:
    """Of 200 samples of 60 rows, about 95 % of the intervals hold the mean they were drawn from."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.rand(200, 60, generator=generator)
    inside = [low <= 0.5 <= high for low, high in (bootstrap_interval(s, draws=400) for s in samples)]
    assert 0.89 <= sum(inside) / len(inside) <= 0.985


def test_equal_values_leave_no_doubt_and_the_order_of_rows_does_not_matter_much() -> None:
    """Nothing to resample gives a point; the seed decides the draws; the ends are always between the extremes."""
    assert bootstrap_interval(torch.full((7,), 0.25)) == (0.25, 0.25)
    values = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, draws=50) != bootstrap_interval(values, draws=50, seed=1)
    low, high = bootstrap_interval(values, 0.999)
    assert 0 <= low < 2.0 < high <= 5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many draws at once, or one at a time: the same interval."""
    values = torch.arange(9.0)
    whole = bootstrap_interval(values, draws=300)
    monkeypatch.setattr("avsl.functional.bootstrap._CHUNK", 1)
    assert bootstrap_interval(values, draws=300) == whole


@pytest.mark.parametrize(
    ("values", "level", "said"),
    [
        (torch.zeros(0), 0.95, "finite values"),
        (torch.tensor([0.0, math.nan]), 0.95, "finite values"),
        (torch.zeros(2, 2), 0.95, r"got shape \(2, 2\)"),
        (torch.zeros(2), 1.0, "between 0 and 1, got 1.0"),
    ],
)
def test_it_refuses_what_has_no_interval(values: torch.Tensor, level: float, said: str) -> None:
    """No row, a row without a score, a table, an impossible level."""
    with pytest.raises(ValueError, match=said):
        bootstrap_interval(values, level)
