"""The sweep over candidate thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from avsl.functional import localization as loc
from avsl.metrics import ThresholdSweep

WIDTH = 100  # pixels of the strips below


def _strips(good: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Maps that succeed from a low to a high threshold each, and fail elsewhere; both in (0, 1)."""
    truth = torch.zeros(len(good), 1, WIDTH)
    truth[..., :10] = 1
    maps = torch.full_like(truth, 0.0)
    for row, (low, high) in enumerate(good):
        # Below `low` the mask has three times the truth's size, above `high` it is empty.
        maps[row, 0, :10], maps[row, 0, 10:30] = high + 0.005, low - 0.005
    return maps, truth


def _swept(good: list[tuple[float, float]], recording: list[int] | None = None) -> ThresholdSweep:
    maps, truth = _strips(good)
    sweep = ThresholdSweep()
    sweep.update(maps, truth, torch.tensor(recording or range(len(good))))
    return sweep


def test_sweep_equals_one_score_per_threshold(samples: tuple[Tensor, Tensor]) -> None:
    """One pass in batches equals 99 evaluations; samples without a truth do not count."""
    maps, truth = samples
    sweep = ThresholdSweep()
    for rows in torch.split(torch.arange(12), 5):
        sweep.update(maps[rows], truth[rows], rows)
    sweep.update(maps, truth * 0, torch.arange(12))
    expected = [
        loc.success_rate(loc.ciou(loc.predict_mask(maps, truth, "fixed", threshold), truth)).item()
        for threshold in sweep.candidates
    ]
    assert sweep.compute().tolist() == expected
    assert max(expected) > min(expected)
    # The choice is the best of the rates, each averaged with its neighbors.
    smooth = [
        sum(rate * math.exp(-0.5 * ((a - b) / 0.05) ** 2) for b, rate in zip(sweep.candidates, expected, strict=True))
        for a in sweep.candidates
    ]
    assert smooth[sweep.candidates.index(sweep.best())] == pytest.approx(max(smooth))


def test_a_plateau_is_preferred_to_a_higher_spike() -> None:
    """A rate that is best at one candidate alone fits these rows; its broad neighbor is chosen, near the middle."""
    sweep = _swept([*[(0.2, 0.4)] * 9, (0.75, 0.75), *[(0.74, 0.76)] * 9, (0.75, 0.75)])
    rates = sweep.compute()
    assert float(rates.max()) == float(rates[sweep.candidates.index(0.75)]) > 0.5
    assert 0.27 <= sweep.best() <= 0.33


def test_of_equal_rates_the_middle_is_chosen() -> None:
    """Where every candidate is as good, or as bad."""
    truth = torch.zeros(1, 10, 10)
    truth[0, :5] = 1
    sweep = ThresholdSweep()
    sweep.update(torch.ones(1, 10, 10), truth, torch.tensor([0]))
    assert sweep.best() == 0.5
    sweep.reset()
    sweep.update(torch.zeros(1, 10, 10), truth, torch.tensor([0]))
    assert sweep.best() == 0.5


def test_each_half_is_scored_at_the_threshold_of_the_other() -> None:
    """Recordings stay whole, the halves are equal, and neither the samples' order nor silent ones change them."""
    recording = [k // 2 for k in range(40)]
    good = [(low, low + 0.2) for low in (0.1 + 0.6 * np.random.default_rng(3).random(40)).tolist()]
    sweep = _swept(good, recording)
    chosen = sweep.cross_fitted()
    assert torch.equal(chosen[::2], chosen[1::2])
    low, high = torch.unique(chosen).tolist()
    assert int((chosen == low).sum()) == 20
    for threshold in (low, high):
        others = (chosen != threshold).nonzero().flatten().tolist()
        assert _swept([good[k] for k in others]).best() == threshold
    succeeds = [a <= t <= b for (a, b), t in zip(good, chosen.tolist(), strict=True)]
    assert float(sweep.cross_fitted_rate()) == np.mean(succeeds)

    order = np.random.default_rng(0).permutation(40).tolist()
    again = _swept([good[k] for k in order], [recording[k] for k in order])
    maps, truth = _strips(good)
    again.update(maps, truth * 0, 100 + torch.tensor(recording))
    assert again.cross_fitted()[:40].tolist() == sweep.cross_fitted()[order].tolist()
    assert again.cross_fitted_rate() == sweep.cross_fitted_rate()


def test_cross_fitted_scores_are_not_optimistic() -> None:
    """Of maps that say nothing, the best of all rates is far above what others' thresholds give; so is the truth.

    Each map is right in a narrow band at a random place: any threshold succeeds on as many new ones.
    """
    rng = np.random.default_rng(1)
    expected, optimistic, fitted = 0.1, [], []
    for _ in range(60):
        lows = 0.05 + 0.8 * rng.random(30)
        sweep = _swept([(low, low + 0.1 * 0.8) for low in lows])
        optimistic.append(float(sweep.compute().max()))
        fitted.append(float(sweep.cross_fitted_rate()))
    assert np.mean(optimistic) > expected + 0.1
    assert abs(np.mean(fitted) - expected) < 0.02


def test_a_single_recording_has_no_halves() -> None:
    """Its samples are scored at their own threshold, and the sweep says so."""
    alone, two = _swept([(0.2, 0.4)] * 4, [7] * 4), _swept([(0.2, 0.4)] * 4, [7, 7, 7, 8])
    assert not alone.has_halves()
    assert two.has_halves()
    assert set(alone.cross_fitted().tolist()) == {alone.best()}
    assert alone.cross_fitted_rate() == 1


def test_refusals(samples: tuple[Tensor, Tensor]) -> None:
    """What cannot be scored is refused by name, never counted."""
    maps, truth = samples
    rows = torch.arange(12)
    with pytest.raises(ValueError, match="not finite"):
        ThresholdSweep().update(maps * torch.nan, truth, rows)
    with pytest.raises(ValueError, match="pair up"):
        ThresholdSweep().update(maps[:2], truth, rows)
    with pytest.raises(ValueError, match="rise"):
        ThresholdSweep((0.5, 0.5))
    silent = ThresholdSweep()
    silent.update(maps, truth * 0, rows)
    for ask in (silent.best, silent.cross_fitted, ThresholdSweep().best):
        with pytest.raises(ValueError, match="without a sample"):
            ask()
