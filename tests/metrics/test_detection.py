"""Detections: batches that add up, silent samples as negatives."""

from __future__ import annotations

import pytest
import torch
from tests.fixtures.messages import facts

from avsl.functional import detection as det
from avsl.functional import localization as loc
from avsl.metrics import DetectionScore

Samples = tuple[torch.Tensor, torch.Tensor]


def scored(maps: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """The figures of one batch."""
    metric = DetectionScore(len(maps), 0.45)
    metric.update(maps, truth)
    return {name: value.item() for name, value in metric.compute().items()}


def test_batches_give_what_one_batch_gives(samples: Samples) -> None:
    """Silent samples may lie anywhere; a reset forgets; the parts are the pure functions'."""
    maps = torch.cat([samples[0], 0.8 * samples[0][:6].flip(1)])
    truth = torch.cat([samples[1], torch.zeros_like(samples[1][:6])])
    batches = DetectionScore(18, 0.45)
    batches.update(maps[:3] * 0, truth[:3])
    batches.reset()
    for rows in torch.split(torch.randperm(18, generator=torch.Generator().manual_seed(1)), 5):
        batches.update(maps[rows], truth[rows])
    confidence = det.top_quarter_mean(loc.resize_as(maps, (32, 32), "fixed"))
    scores = loc.ciou(loc.predict_mask(maps, truth, "fixed", 0.45), truth)
    found = scored(maps, truth)
    assert found == {
        "ap": det.average_precision(confidence, scores).item(),
        "max_f1": det.max_f1(confidence, scores).item(),
    }
    assert {name: value.item() for name, value in batches.compute().items()} == pytest.approx(found, rel=0, abs=1e-12)


def test_silent_samples_count_only_where_the_model_is_sure(samples: Samples) -> None:
    """Below every other they change nothing much; sure ones lower AP and F1; alone there is nothing to find."""
    maps, truth = samples
    both = torch.cat([truth, torch.zeros_like(truth)])
    quiet = scored(torch.cat([maps, 0.1 * maps]), both)
    sure = scored(torch.cat([maps, 0.5 + 0.5 * maps]), both)
    assert sure["ap"] < quiet["ap"]
    assert sure["max_f1"] < quiet["max_f1"]
    assert scored(maps, torch.zeros_like(truth)) == {"ap": 0, "max_f1": 0}


def test_refusals(samples: Samples) -> None:
    """What cannot be scored is refused by name."""
    maps, truth = samples
    with pytest.raises(ValueError, match="not finite"):
        DetectionScore(12, 0.5).update(maps / 0, truth)
    with pytest.raises(ValueError, match="pair up"):
        DetectionScore(12, 0.5).update(maps[:2], truth)
    with pytest.raises(ValueError, match=facts("one")), pytest.warns(UserWarning, match="before the"):
        DetectionScore(0, 0.5).compute()
