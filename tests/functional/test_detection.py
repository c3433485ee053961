"""Detection scores against SLAVC's figures and against its rules written out as loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.fixtures.maps import draw_boxes
from tests.fixtures.messages import facts

from avsl.functional import detection as det
from avsl.functional import localization as loc

Array = npt.NDArray[np.float64]


def _rows(n: int, seed: int, silent: float = 0.3, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences, higher where the cIoU is, and cIoUs, NaN on silent rows."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, n)
    confidence = 0.5 * scores + 0.5 * rng.uniform(0, 1, n)
    if ties:
        confidence = np.round(confidence * 8) / 8
    scores[rng.uniform(0, 1, n) < silent] = np.nan
    return torch.from_numpy(confidence.astype(np.float32)), torch.from_numpy(scores)


def _loop_precision_recall(confidence: Array, scores: Array, threshold: float, at: float) -> tuple[float, float]:
    right = wrong = missed = 0
    for c, s in zip(confidence, scores, strict=True):
        if c >= threshold:
            if not np.isnan(s) and s >= at:
                right += 1
            else:
                wrong += 1
        elif not np.isnan(s):
            missed += 1
    precision = right / (right + wrong) if right + wrong else 1.0
    recall = right / (right + missed) if right + missed else 1.0
    return precision, recall


def _loop_ap(confidence: Array, scores: Array, at: float) -> float:
    n = len(scores)
    pairs = [
        _loop_precision_recall(confidence, scores, threshold, at)
        for threshold in np.sort(confidence)[:-1][:: -max(1, n // 200)]
    ]
    area = 0.0
    for i in range(len(pairs) - 1):
        area += max(precision for precision, _ in pairs[i:]) * (pairs[i + 1][1] - pairs[i][1])
    return area


def _loop_max_f1(confidence: Array, scores: Array, at: float) -> float:
    best = 0.0
    for threshold in sorted(confidence)[:: max(1, len(scores) // 10)]:
        precision, recall = _loop_precision_recall(confidence, scores, threshold, at)
        if precision + recall > 0:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@pytest.mark.reference
def test_published_confidence_to_the_bit(published_metrics: dict[str, torch.Tensor]) -> None:
    """SLAVC's confidence, NumPy's float32 sum included."""
    maps = torch.cat([published_metrics["raw_maps"], published_metrics["extended_silent_maps"]])
    absolute = (loc.resize_maps(maps, (224, 224), "bicubic_aligned") + 1) / 2
    torch.testing.assert_close(
        det.top_quarter_mean(absolute), published_metrics["extended_confidence"], rtol=0, atol=1e-9
    )


@pytest.mark.reference
def test_published_extended_protocol(published_metrics: dict[str, torch.Tensor]) -> None:
    """SLAVC's AP and F1, from its confidences and maps."""
    boxes = draw_boxes(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    silent = published_metrics["extended_silent_maps"]
    maps = torch.cat([published_metrics["raw_maps"], silent])
    truth = torch.cat([boxes, torch.zeros(len(silent), 224, 224)])
    absolute = (loc.resize_as(maps, (224, 224), "median_aligned") + 1) / 2
    confidence = det.top_quarter_mean(absolute)
    ciou = loc.ciou(loc.predict_mask(absolute, truth, "median_aligned"), truth)
    expected = {name: published_metrics[f"extended_{name}"].item() for name in ("ap50", "f1_at_default", "max_f1")}
    assert det.average_precision(confidence, ciou).item() == pytest.approx(expected["ap50"], rel=0, abs=1e-9)
    f1 = det.f1(*det.precision_recall(confidence, ciou, torch.tensor([0.5])))[0].item()
    assert f1 == pytest.approx(expected["f1_at_default"], rel=0, abs=1e-9)
    # The published code rounds each F1 to 0.1 %.
    assert round(100 * det.max_f1(confidence, ciou).item(), 1) / 100 == pytest.approx(expected["max_f1"])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 7), (23, 24), (32, 32), (56, 41), (64, 65), (224, 224)])
def test_top_quarter_mean_is_numpys(shape: tuple[int, int]) -> None:
    """Any number of pixels, to the bit; the quarter is rounded up."""
    maps = torch.rand(3, *shape, generator=torch.Generator().manual_seed(shape[1]))
    expected = [np.sort(image.ravel())[-image.size // 4 :].mean() for image in maps.numpy()]
    np.testing.assert_array_equal(det.top_quarter_mean(maps).numpy(), np.stack(expected))


def test_top_quarter_mean_sees_the_top_quarter_alone() -> None:
    """A quarter of the frame at 0.75 is a confidence of 0.75, wherever it lies; half of that halves it."""
    maps = torch.zeros(3, 8, 8)
    maps[0, :4, :4] = 0.75
    maps[1, 2:6, 3:7] = 0.75
    maps[2, :2, :4] = 0.75
    assert det.top_quarter_mean(maps).tolist() == [0.75, 0.75, 0.375]
    assert det.top_quarter_mean(maps.bfloat16()).tolist() == [0.75, 0.75, 0.375]


@pytest.mark.parametrize("at", [0.3, 0.5])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 2, 9, 10, 57, 450])
def test_detection_scores_match_a_loop(n: int, ties: bool, at: float) -> None:
    """At every threshold, and AP and max-F1 over them; of 400 rows, and of 20, not all count."""
    confidence, scores = _rows(n, seed=n, ties=ties)
    c, s = confidence.numpy(), scores.numpy()
    thresholds = torch.cat([torch.tensor([-1.0, 0.5, 2.0]), confidence[:20]])
    precision, recall = det.precision_recall(confidence, scores, thresholds, at)
    expected = [_loop_precision_recall(c, s, threshold, at) for threshold in thresholds.numpy()]
    assert list(zip(precision.tolist(), recall.tolist(), strict=True)) == expected
    assert det.average_precision(confidence, scores, at).item() == pytest.approx(_loop_ap(c, s, at), abs=1e-12)
    assert det.max_f1(confidence, scores, at).item() == pytest.approx(_loop_max_f1(c, s, at), abs=1e-12)


def test_detection_scores_do_not_depend_on_the_order_of_rows() -> None:
    """Any permutation, ties among the confidences included."""
    confidence, scores = _rows(300, seed=3, ties=True)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for measure in (det.average_precision, det.max_f1):
        torch.testing.assert_close(
            measure(confidence, scores), measure(confidence[order], scores[order]), rtol=0, atol=1e-12
        )


def test_a_detector_that_knows_beats_one_that_does_not() -> None:
    """With every silent row below every right one the AP is all but the first step of recall, the F1 is 1."""
    n = 100
    scores = torch.full((n,), 0.8, dtype=torch.float64)
    scores[50:] = torch.nan
    knows = torch.linspace(1, 0, n)
    # The two highest confidences lie below the first recall that counts.
    assert det.average_precision(knows, scores).item() == pytest.approx(1 - 2 / 50)
    assert det.max_f1(knows, scores).item() == pytest.approx(1)
    # Turned round, no threshold is better than the lowest, which takes every row.
    assert det.average_precision(1 - knows, scores).item() == pytest.approx(0.5)
    assert det.max_f1(1 - knows, scores).item() == pytest.approx(2 / 3)


def test_wrong_masks_are_no_right_detections() -> None:
    """However sure: no cIoU at 0.5, no score."""
    confidence = torch.linspace(0, 1, 20)
    scores = torch.full((20,), 0.49, dtype=torch.float64)
    assert det.average_precision(confidence, scores).item() == 0
    assert det.max_f1(confidence, scores).item() == 0
    assert det.max_f1(confidence, scores, at=0.49).item() == 1


def test_degenerate_sets_of_rows() -> None:
    """No negative, negatives alone, one confidence for all, one row, none."""
    confidence = torch.linspace(0, 1, 20)
    right = torch.ones(20, dtype=torch.float64)
    assert det.average_precision(confidence, right).item() == pytest.approx(1 - 2 / 20)
    assert det.max_f1(confidence, right).item() == 1
    silent = torch.full((20,), torch.nan, dtype=torch.float64)
    precision, recall = det.precision_recall(confidence, silent, torch.tensor([0.5, 2.0]))
    assert (precision.tolist(), recall.tolist()) == ([0, 1], [1, 1])
    assert det.average_precision(confidence, silent).item() == 0
    assert det.max_f1(confidence, silent).item() == 0
    # Where all rows are as sure, one threshold takes them all: no recall is gained along the curve.
    assert det.average_precision(torch.full((20,), 0.5), right).item() == 0
    assert det.average_precision(confidence[:1], right[:1]).item() == 0
    assert det.max_f1(confidence[:1], right[:1]).item() == 1
    for measure in (det.average_precision, det.max_f1):
        with pytest.raises(ValueError, match=facts("one")):
            measure(confidence[:0], right[:0])
