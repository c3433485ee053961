"""The sweep over candidate thresholds."""

from __future__ import annotations

import pytest
import torch
from tests.fixtures.messages import facts

from avsl.functional import localization as loc
from avsl.metrics import ThresholdSweep


def test_sweep_equals_one_score_per_threshold(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One pass in batches equals 99 evaluations."""
    maps, truth = samples
    sweep = ThresholdSweep()
    for rows in torch.split(torch.arange(12), 5):
        sweep.update(maps[rows], truth[rows])
    expected = [
        loc.success_rate(loc.ciou(loc.predict_mask(maps, truth, "fixed", threshold), truth)).item()
        for threshold in sweep.candidates
    ]
    assert sweep.compute().tolist() == expected
    assert max(expected) > min(expected)
    assert expected[sweep.candidates.index(sweep.best())] == max(expected)


def test_best_is_the_middle_of_the_longest_run() -> None:
    """A plateau of equal candidates gives its middle."""
    truth = torch.zeros(1, 10, 10)
    truth[0, :5] = 1
    confidence = torch.where(truth > 0, 0.805, 0.205)
    sweep = ThresholdSweep()
    sweep.update(confidence, truth)
    # At 0.21 … 0.80 the mask is the truth, but below 0.21 the whole image still has IoU 0.5: 0.01 … 0.80.
    assert sweep.best() == 0.40
    truth[0, 4] = 0
    sweep.reset()
    sweep.update(torch.where(truth > 0, 0.805, 0.205), truth)
    assert sweep.best() == 0.50


def test_best_prefers_the_longer_of_two_runs() -> None:
    """Not the first of equal peaks."""
    sweep = ThresholdSweep((0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    truth = torch.zeros(2, 1, 20)
    truth[0, 0, :4] = 1  # right at 0.1 alone: 8 pixels of 0.15
    truth[1, 0, :2] = 1
    first = torch.where(torch.arange(20) < 8, 0.15, 0.0)[None]
    second = torch.where(torch.arange(20) < 2, 0.65, 0.25)[None]
    sweep.update(torch.stack([first, second]), truth)
    assert sweep.compute().tolist() == [0.5, 0.0, 0.5, 0.5, 0.5, 0.5]
    assert sweep.best() == 0.4


def test_refusals(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """What cannot be scored is refused by name, never counted."""
    maps, truth = samples
    empty = truth.clone()
    empty[3] = 0
    with pytest.raises(ValueError, match="sample 3"):
        ThresholdSweep().update(maps, empty)
    with pytest.raises(ValueError, match="not finite"):
        ThresholdSweep().update(maps * torch.nan, truth)
    with pytest.raises(ValueError, match="pair up"):
        ThresholdSweep().update(maps[:2], truth)
    with pytest.raises(ValueError, match="rise"):
        ThresholdSweep((0.5, 0.5))
    with pytest.raises(ValueError, match=facts("sample")), pytest.warns(UserWarning, match="before the"):
        ThresholdSweep().best()
