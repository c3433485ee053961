"""Pixel-wise scores against the published code's numbers and against references written out in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.fixtures.maps import draw_boxes

from avsl.functional import localization as loc
from avsl.functional import segmentation as seg

Array = npt.NDArray[np.float32]


def _samples(rows: int, size: int, seed: int, levels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps that lean towards rectangles, and the rectangles; with ``levels`` pixels tie."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((rows, size, size), np.float32)
    for image in truth:
        y, x = rng.integers(0, size // 2, 2)
        image[y : y + size // 2, x : x + size // 3] = 1
    maps = 0.4 * truth + 0.6 * rng.uniform(0, 1, truth.shape).astype(np.float32)
    if levels:
        maps = np.round(maps * levels) / np.float32(levels)
    return torch.from_numpy(maps), torch.from_numpy(truth)


@pytest.fixture(scope="module")
def published(published_metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The arrays with the masks drawn."""
    truth = draw_boxes(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    return published_metrics | {"truth": truth}


def _exact(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9, check_dtype=False)


@pytest.mark.reference
def test_published_pixel_scores(published: dict[str, torch.Tensor]) -> None:
    """Pixel-wise AP the right way round and as published."""
    maps, truth = loc.resize_maps(published["raw_maps"], (224, 224), "bicubic_aligned"), published["truth"]
    _exact(seg.pixel_average_precision(maps, truth), published["pixel_ap"])
    pred = loc.predict_mask(published["raw_maps"], truth, "median_aligned")
    _exact(seg.piap_as_published(pred, truth), published["piap_as_published"])


def _loop_ap(scores: Array, positive: Array) -> float:
    """Σ (R_k − R_{k−1}) P_k over the distinct values; 0 without a positive."""
    area = before = 0.0
    for value in sorted(set(scores.ravel().tolist()), reverse=True) if positive.any() else ():
        hits = float(positive[scores >= value].sum())
        recall = hits / float(positive.sum())
        area += (recall - before) * hits / int((scores >= value).sum())
        before = recall
    return area


@pytest.mark.parametrize("levels", [None, 5, 1])
def test_pixel_average_precision_matches_a_loop(levels: int | None) -> None:
    """With distinct, tied and two-valued pixels."""
    maps, truth = _samples(5, 15, seed=1, levels=levels)
    expected = [_loop_ap(m, t) for m, t in zip(maps.numpy(), truth.numpy(), strict=True)]
    np.testing.assert_allclose(seg.pixel_average_precision(maps, truth).numpy(), expected, rtol=0, atol=1e-12)


def test_pixel_average_precision_sees_the_ranking_alone() -> None:
    """The truth scores 1, a constant map the truth's share, its own complement less; scale does not matter."""
    maps, truth = _samples(3, 12, seed=4)
    assert seg.pixel_average_precision(truth, truth).tolist() == [1, 1, 1]
    share = truth.mean((1, 2)).double()
    torch.testing.assert_close(seg.pixel_average_precision(torch.zeros_like(maps), truth), share, rtol=0, atol=1e-7)
    assert bool((seg.pixel_average_precision(-truth, truth) <= share + 1e-7).all())
    scored = seg.pixel_average_precision(maps, truth)
    assert torch.equal(seg.pixel_average_precision(maps * 4 - 2, truth), scored)
    assert torch.equal(seg.pixel_average_precision(maps, truth / 2), scored)
    assert bool(seg.pixel_average_precision(maps, torch.zeros_like(truth)).isnan().all())


def test_piap_as_published_is_the_other_way_round() -> None:
    """The prediction is taken for the truth; without a prediction it is 0."""
    maps, truth = _samples(4, 12, seed=5)
    pred = maps > 0.6
    pred[3] = False
    expected = [_loop_ap(t, p) for p, t in zip(pred.numpy(), truth.numpy(), strict=True)]
    np.testing.assert_allclose(seg.piap_as_published(pred, truth).numpy(), expected, rtol=0, atol=1e-12)
    assert expected[3] == 0


def _loop_iou(confidence: Array, truth: Array) -> float:
    inter = union = empty = 0
    for c, t in zip(confidence.ravel(), truth.ravel(), strict=True):
        inter += bool(c > 0.5 and t > 0)
        union += bool(c > 0.5 or t > 0)
        empty += bool(c <= 0.5)
    return inter / union if truth.any() else empty / truth.size


def test_avs_iou_matches_a_loop() -> None:
    """Above 0.5, not at it; an empty truth scores the pixels left empty."""
    confidence, truth = _samples(5, 10, seed=6, levels=4)
    truth[1] = 0
    assert bool((confidence == 0.5).any())
    expected = [_loop_iou(c, t) for c, t in zip(confidence.numpy(), truth.numpy(), strict=True)]
    np.testing.assert_allclose(seg.avs_iou(confidence, truth).numpy(), expected, rtol=0, atol=1e-6)
    assert 0 < expected[1] < 1
    silent = torch.zeros(1, 10, 10)
    assert seg.avs_iou(silent, silent).item() == pytest.approx(1)
    assert seg.avs_iou(silent + 1, silent).item() == 0


def test_avs_f_scores_match_a_loop() -> None:
    """At each of the 255 thresholds; 0 without a right pixel, none for an empty truth."""
    confidence, truth = _samples(4, 10, seed=7)
    confidence[0] *= 0.4  # above it nothing is predicted
    confidence[1] = torch.where(truth[1] > 0, 0.0, confidence[1])  # wrong everywhere
    truth[2] = 0
    curves = seg.avs_f_scores(confidence, truth)
    thresholds = torch.linspace(0, 1 - 1e-10, 255).numpy()
    for row in (0, 1, 3):
        c, t = confidence[row].numpy(), truth[row].numpy()
        for step, threshold in enumerate(thresholds):
            chosen = c >= threshold
            hit = float(t[chosen].sum())
            precision, recall = (hit / chosen.sum(), hit / t.sum()) if hit else (0.0, 0.0)
            expected = 1.3 * precision * recall / (0.3 * precision + recall) if hit else 0.0
            assert curves[row, step].item() == pytest.approx(expected, abs=1e-6)
    assert curves[0, 200:].tolist() == [0] * 55
    assert bool(curves[2].isnan().all())


def test_scores_of_a_row_do_not_depend_on_its_neighbors() -> None:
    """A batch equals its rows."""
    maps, truth = _samples(6, 14, seed=8, levels=20)
    truth[4] = 0
    for measure in (seg.pixel_average_precision, seg.avs_iou, seg.avs_f_scores):
        alone = torch.cat([measure(maps[k : k + 1], truth[k : k + 1]) for k in range(6)])
        torch.testing.assert_close(measure(maps, truth), alone, rtol=0, atol=0, equal_nan=True)
