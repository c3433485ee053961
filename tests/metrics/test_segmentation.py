"""Multi-source and AVSBench figures: the published ones, and batches that add up."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import Metric

from avsl.functional import localization as loc
from avsl.functional import segmentation as seg
from avsl.metrics import MultiSourceScore, SegmentationScore

Samples = tuple[torch.Tensor, torch.Tensor]


def _floats(metric: Metric) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.fixture(scope="module")
def truth(published_metrics: dict[str, torch.Tensor]) -> torch.Tensor:
    """The masks of the published figures."""
    return loc.box_masks(published_metrics["boxes"], published_metrics["box_offsets"], 224)


@pytest.mark.reference
def test_published_multi_source_scores(published_metrics: dict[str, torch.Tensor], truth: torch.Tensor) -> None:
    """The published code's precisions and means, in uneven batches."""
    metric = MultiSourceScore("median_aligned")
    for rows in torch.split(torch.arange(len(truth)), 17):
        metric.update(published_metrics["raw_maps"][rows], truth[rows])
    expected = {name: published_metrics[f"multi_{name}"].item() for name in ("p10", "p30", "p50")}
    expected |= {name: published_metrics[name].mean().item() for name in ("pixel_ap", "piap_as_published")}
    assert _floats(metric) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.reference
def test_published_avsbench_scores(published_metrics: dict[str, torch.Tensor], truth: torch.Tensor) -> None:
    """AVSBench's mIoU and F-score with an empty mask, in uneven batches."""
    masks = truth.clone()
    masks[int(published_metrics["avs_empty_index"])] = 0
    logits = 8 * loc.resize_maps(published_metrics["raw_maps"], (224, 224), "bicubic") - 1.5
    metric = SegmentationScore()
    for rows in torch.split(torch.arange(len(masks)), 17):
        metric.update(logits[rows].sigmoid(), masks[rows])
    expected = {name: published_metrics[f"avs_{name}"].item() for name in ("miou", "fscore")}
    assert _floats(metric) == pytest.approx(expected, rel=0, abs=1e-9)


def test_multi_source_batches_give_what_one_batch_gives(samples: Samples) -> None:
    """The precisions are strict: a cIoU at the limit is none."""
    maps, truth = samples
    maps[::2] = maps[::2].flip(1)  # half of them look elsewhere
    once, batches = MultiSourceScore("fixed", 0.45), MultiSourceScore("fixed", 0.45)
    once.update(maps, truth)
    for rows in torch.split(torch.arange(12), 5):
        batches.update(maps[rows], truth[rows])
    found = once.compute()
    assert batches.compute() == found
    scores = loc.ciou(loc.predict_mask(maps, truth, "fixed", 0.45), truth)
    assert [found[name].item() for name in ("p10", "p30", "p50")] == pytest.approx(
        [(scores > at).double().mean().item() for at in (0.1, 0.3, 0.5)]
    )
    assert found["p50"] < found["p10"]
    half = torch.zeros(1, 4, 4)
    half[0, :2] = 1
    limit = MultiSourceScore("fixed", 0.5)
    limit.update(torch.ones(1, 4, 4), half)
    assert [limit.compute()[name].item() for name in ("p10", "p30", "p50")] == [1, 1, 0]
    with pytest.raises(ValueError, match="empty truth of row 0"):
        limit.update(half, torch.zeros(1, 4, 4))


def test_avsbench_batches_give_what_one_batch_gives(samples: Samples) -> None:
    """The maximum is over the whole data set, whatever the batches; a reset forgets."""
    maps, truth = samples
    truth[4] = 0
    confidence = loc.resize_maps(maps, (32, 32), "opencv_bilinear")
    once, batches = SegmentationScore(), SegmentationScore()
    once.update(maps, truth)
    batches.update(1 - maps, truth)
    batches.reset()
    for rows in torch.split(torch.arange(12), 1):
        batches.update(maps[rows], truth[rows])
    found = once.compute()
    assert batches.compute() == found
    assert found["miou"].item() == pytest.approx(seg.avs_iou(confidence, truth).mean().item(), abs=1e-6)
    curves = torch.cat([seg.avs_f_scores(confidence, truth)[:4], seg.avs_f_scores(confidence, truth)[5:]])
    assert found["fscore"].item() == pytest.approx(curves.mean(0).max().item(), abs=1e-6)
    # Not the mean of each row's own maximum.
    assert found["fscore"] < curves.amax(1).mean()


def test_avsbench_degenerate_data_sets(samples: Samples) -> None:
    """The truth scores 1; silent frames alone have no F-score; no frame has no score."""
    maps, truth = samples
    perfect = SegmentationScore()
    perfect.update(truth, truth)
    assert perfect.compute() == {"miou": pytest.approx(1), "fscore": pytest.approx(1)}
    silent = SegmentationScore()
    silent.update(maps * 0, truth * 0)
    assert silent.compute() == {"miou": pytest.approx(1)}
    none = SegmentationScore()
    none.update(maps[:0], truth[:0])
    with pytest.raises(ValueError, match="at least one frame"):
        none.compute()
    with pytest.raises(ValueError, match="must pair up"):
        none.update(maps[:2], truth)
