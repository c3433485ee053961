"""Figures of a part: the published ones, and those of the pure functions on all samples at once."""

from __future__ import annotations

import pytest
import torch
from tests.fixtures.maps import draw_boxes

from avsl.functional import localization as loc
from avsl.functional import segmentation as seg
from avsl.metrics import PartScore

Samples = tuple[torch.Tensor, torch.Tensor]


def in_batches(
    score: PartScore, maps: torch.Tensor, truth: torch.Tensor, group: torch.Tensor | None = None, *, exact: bool = False
) -> dict[str, float]:
    """The figures after uneven batches."""
    group = torch.arange(len(maps)) if group is None else group
    for rows in torch.split(torch.arange(len(maps)), 17):
        score.update(maps[rows], truth[rows], torch.full((len(rows),), exact), group[rows])
    return {name: value.item() for name, value in score.compute().items()}


@pytest.fixture(scope="module")
def truth(published_metrics: dict[str, torch.Tensor]) -> torch.Tensor:
    """The masks of the published figures."""
    return draw_boxes(published_metrics["boxes"], published_metrics["box_offsets"], 224).bool()


@pytest.mark.reference
def test_published_scores(published_metrics: dict[str, torch.Tensor], truth: torch.Tensor) -> None:
    """Median and oracle conventions, and the multi-source code's precisions and means."""
    maps = published_metrics["raw_maps"]
    found = in_batches(PartScore(len(maps), 0.5, mixed=True), maps, truth)
    expected = {f"{name}_aligned": published_metrics[f"multi_{name}"].item() for name in ("p10", "p30", "p50")}
    expected["pixel_ap_aligned"] = published_metrics["pixel_ap"].mean().item()
    expected["piap_as_published"] = published_metrics["piap_as_published"].mean().item()
    for ours, theirs in (("median", "median"), ("oracle", "adaptive")):
        expected[f"ciou_{ours}"] = published_metrics[f"ap50_{theirs}"].item()
        expected[f"auc_{ours}"] = published_metrics[f"auc_{theirs}"].item()
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.reference
def test_published_avsbench_scores(published_metrics: dict[str, torch.Tensor], truth: torch.Tensor) -> None:
    """AVSBench's mIoU and F-score with an empty mask."""
    masks = truth.clone()
    masks[int(published_metrics["avs_empty_index"])] = False
    logits = 8 * loc.resize_maps(published_metrics["raw_maps"], (224, 224), "bicubic") - 1.5
    found = in_batches(PartScore(len(masks), 0.5, exact_masks=True), logits.sigmoid(), masks, exact=True)
    expected = {name: published_metrics[f"avs_{name}"].item() for name in ("miou", "fscore")}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)
    assert found["n_exact"] == len(masks)


def test_figures_are_those_of_all_samples_at_once(samples: Samples) -> None:
    """Each convention's summary, the worst of each group, false positives of silent samples; a reset forgets."""
    maps, boxes = samples[0].repeat(3, 1, 1), samples[1].repeat(3, 1, 1).bool()
    maps[12:24] = maps[12:24].flip(1)  # some look elsewhere
    boxes[24:] = False
    score = PartScore(36, 0.45)
    in_batches(score, maps * 0, boxes)
    score.reset()
    found = in_batches(score, maps, boxes, torch.arange(36) % 12)
    expected: dict[str, float] = {}
    conventions: list[tuple[str, loc.Convention]] = [("", "fixed"), ("_median", "median"), ("_oracle", "adaptive")]
    for suffix, convention in conventions:
        cut = loc.predict_mask(maps, boxes, convention, 0.45 if convention == "fixed" else None)
        ciou = loc.ciou(cut, boxes)
        expected |= {name + suffix: value.item() for name, value in loc.summarize(ciou[:24]).items()}
        if convention == "fixed":
            worst = ciou[:24].view(2, 12).amin(0)
            fired = cut[24:].flatten(1).any(1).double().mean().item()
            expected |= {"iiou": loc.success_rate(worst).item(), "iauc": loc.auc(worst).item()}
            expected["false_positive_rate"] = fired
            torch.testing.assert_close(score.ciou, ciou, rtol=0, atol=0, equal_nan=True)
    assert found == pytest.approx(expected, rel=0, abs=1e-12)
    assert torch.equal(score.size, loc.area_bucket(boxes))
    assert torch.equal(score.peak, maps.amax((1, 2)))


def test_mixtures_have_precisions_in_place_of_the_worst_of_a_group(samples: Samples) -> None:
    """At the fixed threshold and aligned; the precisions are strict."""
    maps, boxes = samples[0], samples[1].bool()
    found = in_batches(PartScore(12, 0.45, mixed=True), maps, boxes, torch.zeros(12, dtype=torch.long))
    ciou = loc.ciou(loc.predict_mask(maps, boxes, "fixed", 0.45), boxes)
    assert [found[name] for name in ("p10", "p50")] == [(ciou > at).double().mean().item() for at in (0.1, 0.5)]
    pixel_ap = seg.pixel_average_precision(loc.resize_as(maps, (32, 32), "fixed"), boxes)
    assert found["pixel_ap"] == pytest.approx(pixel_ap.mean().item(), abs=1e-12)
    assert "iiou" not in found
