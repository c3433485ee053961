"""cIoU and its summaries, against the published numbers and loops in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.fixtures.maps import draw_boxes, draw_maps, draw_truth
from tests.fixtures.messages import facts

from avsl.functional import localization as loc
from avsl.functional.boxes import consensus_map

Array = npt.NDArray[np.float64]


def _loop_ciou(pred: npt.NDArray[np.bool_], truth: Array) -> float:
    hit = area = outside = 0.0
    for p, t in zip(pred.ravel(), truth.ravel(), strict=True):
        hit += t if p else 0.0
        area += t
        outside += 1.0 if p and t == 0 else 0.0
    return hit / (area + outside)


def _exact(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9, check_dtype=False)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("suffix", "convention", "threshold"),
    [
        ("median", "median", None),
        ("extended", "median_aligned", None),
        ("multi", "median_aligned", None),
        ("median_strict", "median_strict", None),
        ("adaptive", "adaptive", None),
        ("fixed50", "fixed_minmax", 0.5),
        ("flickr", "median", None),
    ],
)
def test_published_scores(
    published_metrics: dict[str, torch.Tensor], suffix: str, convention: loc.Convention, threshold: float | None
) -> None:
    """Every convention gives the published code's cIoU, success rate, AUC and mean."""
    truth = draw_boxes(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    if suffix == "flickr":
        annotators = published_metrics["flickr_boxes_256"].numpy() / 256
        truth = torch.from_numpy(np.stack([consensus_map(boxes, 224) for boxes in annotators]))
    scores = loc.ciou(loc.predict_mask(published_metrics["raw_maps"], truth, convention, threshold), truth)
    expected = published_metrics[f"{suffix}_ciou" if suffix in ("extended", "multi") else f"ciou_{suffix}"]
    _exact(scores, expected[: len(scores)])  # silent rows follow the others in the extended protocol
    for name, value in (("ap50", loc.success_rate(scores)), ("auc", loc.auc(scores)), ("mean_ciou", scores.mean())):
        if f"{name}_{suffix}" in published_metrics:
            _exact(value, published_metrics[f"{name}_{suffix}"])


@pytest.mark.reference
@pytest.mark.parametrize(("suffix", "scores"), [("", "ciou_median"), ("_adaptive", "ciou_adaptive")])
def test_published_interactive_scores(published_metrics: dict[str, torch.Tensor], suffix: str, scores: str) -> None:
    """IIoU and IAUC of pairs, from either convention."""
    worst = loc.interactive_iou(published_metrics[scores], torch.arange(len(published_metrics[scores])) // 2)
    _exact(loc.success_rate(worst), published_metrics[f"iiou{suffix}"])
    _exact(loc.auc(worst), published_metrics[f"iauc{suffix}"])


@pytest.mark.reference
def test_published_area_buckets(published_metrics: dict[str, torch.Tensor]) -> None:
    """SLAVC's size classes."""
    truth = draw_boxes(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    scores = loc.ciou(loc.predict_mask(published_metrics["raw_maps"], truth, "median_aligned"), truth)
    bucket = loc.area_bucket(truth)
    for index, name in enumerate(loc.AREA_BUCKETS):
        if f"auc_area_{name}" in published_metrics:
            _exact(loc.auc(scores[bucket == index]), published_metrics[f"auc_area_{name}"])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_conventions_and_ciou_match_a_loop(convention: loc.Convention, ties: bool) -> None:
    """Sorting and counting pixel by pixel gives the same, on ties too."""
    size = 12
    maps = draw_maps(8, size, seed=7)
    if ties:
        maps = (maps * 4).round() / 4
    truth = draw_truth(8, size, seed=7)
    truth[::2] /= 2  # consensus maps
    threshold = 0.5 if convention.startswith("fixed") else None
    actual = loc.ciou(loc.predict_mask(maps, truth, convention, threshold), truth)
    for row, (values, target) in enumerate(zip(maps.numpy(), truth.double().numpy(), strict=True)):
        if convention != "fixed":
            values = (values - values.min()) / (values.max() - values.min())
        ranked = np.sort(values.ravel())
        mask = {
            "median": values >= ranked[size * size // 2],
            "median_aligned": values >= ranked[size * size // 2],
            "median_strict": values > ranked[size * size // 2],
            "adaptive": values > ranked[-int((target != 0).sum())],
        }.get(convention, values >= 0.5)
        assert actual[row].item() == pytest.approx(_loop_ciou(mask, target), abs=1e-12)


def test_ciou_limits() -> None:
    """The truth scores 1, its complement 0, an empty truth has no score."""
    truth = draw_truth(3, 20)
    assert loc.ciou(truth.bool(), truth).tolist() == [1.0, 1.0, 1.0]
    assert loc.ciou(truth == 0, truth).tolist() == [0.0, 0.0, 0.0]
    assert bool(loc.ciou(truth.bool(), torch.zeros_like(truth)).isnan().all())


def test_ciou_of_a_bool_truth_is_that_of_zeros_and_ones() -> None:
    """Counting and adding up agree, on a view of other memory order too; an empty truth has no score."""
    truth, pred = draw_truth(5, 20).bool(), draw_maps(5, 20) > 0.4
    truth[2] = False
    for t, p in ((truth, pred), (truth.mT, pred.mT)):
        torch.testing.assert_close(loc.ciou(p, t), loc.ciou(p, t.float()), rtol=0, atol=0, equal_nan=True)
    assert loc.count(truth).tolist() == [int(mask.sum()) for mask in truth.numpy()]


def test_sweep_equals_one_binarization_per_threshold() -> None:
    """All 99 thresholds in one pass, confidences on a threshold included."""
    thresholds = [step / 100 for step in range(1, 100)]
    maps, truth = draw_maps(5, 7, seed=9), draw_truth(5, 28, seed=9)
    maps[0] = (maps[0] * 100).round() / 100  # confidences on a threshold count as reaching it
    maps = torch.cat([maps, maps[:1]])
    truth = torch.cat([truth, truth[:1] / 2])
    swept = loc.ciou_by_threshold(maps, truth, torch.tensor(thresholds))
    for column, threshold in enumerate(thresholds):
        expected = loc.ciou(loc.predict_mask(maps, truth, "fixed", threshold), truth)
        torch.testing.assert_close(swept[:, column], expected, rtol=0, atol=1e-12)


def test_sums_above_match_a_loop() -> None:
    """The weight of the pixels at or above each threshold, all of them first."""
    values, weight = draw_maps(3, 6, seed=11), (draw_maps(3, 6, seed=12) * 3).round() / 2
    values[0] = (values[0] * 10).round() / 10
    thresholds = torch.tensor([0.0, 0.3, 0.7, 1.5])
    sums = loc.sums_above(values, weight, thresholds)
    for row in range(3):
        expected = [weight[row].sum().item()]
        for threshold in thresholds:
            reached = [w for v, w in zip(values[row].flatten(), weight[row].flatten(), strict=True) if v >= threshold]
            expected.append(float(sum(reached)))
        assert sums[row].tolist() == expected


def test_auc_and_success_rate_by_hand() -> None:
    """Against a trapezoid sum in NumPy."""
    scores = torch.tensor([0.0, 0.5, 1.0, 0.3], dtype=torch.float64)
    assert loc.success_rate(scores).item() == 0.5
    assert loc.success_rate(scores, strict=True).item() == 0.25
    rates = [np.mean(scores.numpy() >= 0.05 * step) for step in range(21)]
    assert loc.auc(scores).item() == pytest.approx(np.trapezoid(rates, dx=0.05), abs=1e-12)
    assert loc.auc(torch.ones(3)).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match=facts("one")):
        loc.success_rate(torch.zeros(0))


def test_interactive_score_is_the_worst_of_each_frame() -> None:
    """Groups in any order and of any size."""
    scores = torch.tensor([0.9, 0.2, 0.6, 0.7, 0.8], dtype=torch.float64)
    group = torch.tensor([4, 4, 1, 4, 1])
    assert loc.interactive_iou(scores, group).tolist() == [0.6, 0.2]


def test_area_buckets_at_their_bounds() -> None:
    """A bound belongs to the class above, at any resolution."""
    truth = torch.zeros(6, 224, 224)
    for row, side in enumerate((31, 32, 95, 96, 143, 144)):
        truth[row, :side, :side] = 1
    assert loc.area_bucket(truth).tolist() == [0, 1, 1, 2, 2, 3]
    coarse = torch.zeros(1, 7, 7)
    coarse[0, 0, 0] = 1  # the same share as 32 of 224 pixels
    assert loc.area_bucket(coarse).tolist() == [1]
