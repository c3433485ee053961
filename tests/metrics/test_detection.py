"""SLAVC's extended protocol: its published figures, and batches that add up."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics import Metric

from avsl.functional import detection as det
from avsl.functional import localization as loc
from avsl.metrics import ExtendedScore

Samples = tuple[torch.Tensor, torch.Tensor]


def _floats(metric: Metric) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.fixture
def mixed(samples: Samples) -> Samples:
    """Twelve rows with a source, and six without that look less sure."""
    maps, truth = samples
    return torch.cat([maps, 0.8 * maps[:6].flip(1)]), torch.cat([truth, torch.zeros_like(truth[:6])])


@pytest.mark.reference
def test_published_extended_protocol(published_metrics: dict[str, torch.Tensor]) -> None:
    """All figures of SLAVC's evaluation, in uneven batches."""
    positives = loc.box_masks(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    negatives = published_metrics["extended_silent_maps"]
    maps = torch.cat([published_metrics["raw_maps"], negatives])
    truth = torch.cat([positives, torch.zeros(len(negatives), 224, 224)])
    metric = ExtendedScore("median_aligned", span=(-1, 1))
    for rows in torch.split(torch.arange(len(maps)), 17):
        metric.update(maps[rows], truth[rows])
    found = _floats(metric)
    for ours, theirs in {
        "ap": "extended_ap50",
        "f1": "extended_f1_at_default",
        "precision": "extended_precision_visible50",
        **{f"auc_{name}": f"auc_area_{name}" for name in loc.AREA_BUCKETS},
    }.items():
        assert (ours in found) == (theirs in published_metrics)
        if ours in found:
            assert found[ours] == pytest.approx(published_metrics[theirs].item(), rel=0, abs=1e-9)
    # The published code rounds each F1 to 0.1 %.
    assert round(100 * found["max_f1"], 1) / 100 == pytest.approx(published_metrics["extended_max_f1"].item())


@pytest.mark.parametrize("convention", ["fixed", "median_aligned", "median"])
def test_batches_give_what_one_batch_gives(convention: loc.Convention, mixed: Samples) -> None:
    """Silent rows may lie anywhere; a reset forgets; the parts are the pure functions'."""
    maps, truth = mixed
    threshold = 0.45 if convention == "fixed" else None
    once, batches = ExtendedScore(convention, threshold), ExtendedScore(convention, threshold)
    once.update(maps, truth)
    batches.update(maps[:3] * 0, truth[:3])
    batches.reset()
    for rows in torch.split(torch.randperm(18, generator=torch.Generator().manual_seed(1)), 5):
        batches.update(maps[rows], truth[rows])
    found = once.compute()
    assert _floats(batches) == pytest.approx(_floats(once), rel=0, abs=1e-12)
    confidence = det.top_quarter_mean(loc.resize_as(maps, (32, 32), convention))
    scores = loc.ciou(loc.predict_mask(maps, truth, convention, threshold), truth)
    assert found["ap"] == det.average_precision(confidence, scores)
    assert found["max_f1"] == det.max_f1(confidence, scores)
    assert found["precision"] == (scores[:12] > 0.5).double().mean()
    assert found["auc"] == loc.auc(scores[:12])


def test_silent_rows_count_only_where_the_model_is_sure(samples: Samples) -> None:
    """Silent rows below every other change nothing but lower no score; sure ones lower AP and F1, not the precision."""
    maps, truth = samples
    nothing = torch.zeros_like(truth)
    quiet, loud = ExtendedScore("fixed", 0.45), ExtendedScore("fixed", 0.45)
    quiet.update(torch.cat([maps, 0.1 * maps]), torch.cat([truth, nothing]))
    loud.update(torch.cat([maps, 0.5 + 0.5 * maps]), torch.cat([truth, nothing]))
    low, high = quiet.compute(), loud.compute()
    assert high["ap"] < low["ap"]
    assert high["max_f1"] < low["max_f1"]
    assert {name: value for name, value in high.items() if name.startswith(("auc", "prec"))} == {
        name: value for name, value in low.items() if name.startswith(("auc", "prec"))
    }


def test_the_span_says_what_0_and_1_are(mixed: Samples) -> None:
    """A cosine of 2P − 1 in (−1, 1) is a confidence of P."""
    maps, truth = mixed
    plain, cosine = ExtendedScore("fixed", 0.45), ExtendedScore("fixed", 0.45, span=(-1, 1))
    plain.update(maps, truth)
    cosine.update(2 * maps - 1, truth)
    assert _floats(cosine) == pytest.approx(_floats(plain), abs=1e-6)


def test_size_classes_without_a_row_are_left_out(mixed: Samples) -> None:
    """Only what was seen is told; silent rows have no size."""
    maps, truth = mixed
    metric = ExtendedScore("fixed", 0.45)
    metric.update(maps, truth)
    seen = {loc.AREA_BUCKETS[k] for k in loc.area_bucket(truth[:12]).tolist()}
    assert "small" not in seen
    assert {name for name in metric.compute() if name.startswith("auc_")} == {f"auc_{name}" for name in seen}


def test_degenerate_data_sets(samples: Samples) -> None:
    """Silent rows alone have no precision, sounding rows alone no negative, no rows no score."""
    maps, truth = samples
    silent = ExtendedScore("fixed", 0.45)
    silent.update(maps, torch.zeros_like(truth))
    assert silent.compute() == {"ap": 0, "f1": 0, "max_f1": 0}
    sounding = ExtendedScore("fixed", 0.45)
    sounding.update(maps, truth)
    found = sounding.compute()
    assert {"ap", "f1", "max_f1", "precision", "auc"} <= set(found)
    assert all(math.isfinite(value) for value in found.values())
    empty = ExtendedScore("fixed", 0.45)
    with pytest.raises(ValueError, match="No samples"), pytest.warns(UserWarning, match="before the"):
        empty.compute()


def test_refusals(samples: Samples) -> None:
    """What cannot be scored is refused by name."""
    maps, truth = samples
    with pytest.raises(ValueError, match=r"must rise, got \(1, -1\)"):
        ExtendedScore("median", span=(1, -1))
    with pytest.raises(ValueError, match="'fixed' needs a threshold"):
        ExtendedScore("fixed")
    with pytest.raises(ValueError, match="not finite"):
        ExtendedScore("median").update(maps / 0, truth)
    with pytest.raises(ValueError, match="must pair up"):
        ExtendedScore("median").update(maps[:2], truth)
