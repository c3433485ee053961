"""The accumulating metrics equal the pure functions on all samples at once."""

from __future__ import annotations

import pytest
import torch

from avsl.functional import localization as loc
from avsl.metrics import FalsePositiveRate, InteractiveScore, LocalizationScore, ThresholdSweep

BATCHES = ((0, 5), (5, 6), (6, 12))


@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_accumulated_score_equals_all_at_once(
    convention: loc.Convention, samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Batches of any size give what one batch gives; a reset forgets."""
    maps, truth = samples
    threshold = 0.5 if convention.startswith("fixed") else None
    metric = LocalizationScore(convention, threshold)
    for start, stop in BATCHES:
        metric.update(maps[start:stop], truth[start:stop])
    scores = loc.ciou(loc.predict_mask(maps, truth, convention, threshold), truth)
    assert metric.compute() == {
        "ciou": (scores >= 0.5).double().mean(),
        "ciou_70": (scores >= 0.7).double().mean(),
        "auc": loc.auc(scores),
        "mean_ciou": scores.mean(),
    }
    metric.reset()
    metric.update(maps[:1], truth[:1])
    assert metric.compute()["mean_ciou"] == scores[0]


def test_groups_may_span_batches(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A frame's sounds meet although they came in different batches."""
    maps, truth = samples
    group = torch.arange(12) % 4
    metric = InteractiveScore("fixed", 0.5)
    for start, stop in BATCHES:
        metric.update(maps[start:stop], truth[start:stop], group[start:stop])
    scores = loc.ciou(loc.predict_mask(maps, truth, "fixed", 0.5), truth)
    worst = torch.stack([scores[group == g].min() for g in range(4)])
    assert metric.compute() == {"iiou": loc.success_rate(worst), "iauc": loc.auc(worst)}


def test_sweep_equals_one_score_per_threshold(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One pass equals 99 evaluations."""
    maps, truth = samples
    sweep = ThresholdSweep()
    for start, stop in BATCHES:
        sweep.update(maps[start:stop], truth[start:stop])
    expected = []
    for threshold in sweep.candidates:
        metric = LocalizationScore("fixed", threshold)
        metric.update(maps, truth)
        expected.append(metric.compute()["ciou"].item())
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


def test_false_positive_rate_counts_frames(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Two of five frames fire."""
    maps = torch.stack([torch.full((4, 4), value) for value in (0.1, 0.5, 0.7, 0.2, 0.3)])
    metric = FalsePositiveRate(0.5)
    metric.update(maps[:2], (16, 16))
    metric.update(maps[2:], (16, 16))
    assert metric.compute().item() == pytest.approx(2 / 5)


def test_refusals_are_one_clear_sentence(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    """What cannot be scored is refused by name, never counted."""
    maps, truth = samples
    metric = LocalizationScore("median")
    empty = truth.clone()
    empty[3] = 0
    with pytest.raises(ValueError, match="empty truth of row 3"):
        metric.update(maps, empty)
    with pytest.raises(ValueError, match="not finite"):
        metric.update(maps * torch.nan, truth)
    with pytest.raises(ValueError, match="must pair up"):
        metric.update(maps[:2], truth)
    with pytest.raises(ValueError, match="'fixed' needs a threshold"):
        LocalizationScore("fixed")
    with pytest.raises(ValueError, match="'median' takes no threshold"):
        LocalizationScore("median", 0.5)
    with pytest.raises(ValueError, match="allowed are median"):
        LocalizationScore("mode")  # type: ignore[arg-type] # the wrong name is the point
    with pytest.raises(ValueError, match="must rise"):
        ThresholdSweep((0.5, 0.5))
    with pytest.raises(ValueError, match="without a sample"), pytest.warns(UserWarning, match="before the"):
        ThresholdSweep().best()
    with pytest.raises(ValueError, match="one group id per map"):
        InteractiveScore("median").update(maps, truth, torch.arange(3))
