"""Several annotators of one frame."""

from __future__ import annotations

import numpy as np
import pytest

from avsl.data.annotation_files import as_boxes
from avsl.labels.agreement import MergeRule, agreement, merge

_A, _B, _FAR, _NONE = ([0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60], as_boxes([]))


@pytest.mark.parametrize(
    ("annotators", "rule", "expected"),
    [
        ([[_A, _FAR]], "vote", [_A, _FAR]),
        ([[]], "consensus", []),
        ([[_A], [_B]], "consensus", [[2, 0, 10, 10]]),
        ([[_A], [_B]], "vote", [[1, 0, 11, 10]]),
        ([[_A], [_FAR]], "consensus", None),
        ([[_A], [_FAR]], "vote", None),
        ([[_A], [_B], [_A, _FAR]], "vote", [_A]),
        ([[_A], [], []], "vote", []),
        ([[_A], []], "consensus", None),
        ([[_A], [_B], []], "consensus", [[2, 0, 10, 10]]),
        ([[_A], [_B], [], []], "vote", None),
        ([[_A, _B], [_A]], "vote", [_A]),
    ],
)
def test_annotators_are_merged(
    annotators: list[list[list[float]]], rule: MergeRule, expected: list[list[float]] | None
) -> None:
    """By overlap or by majority; a tie of boxes and silence is no agreement."""
    merged = merge([as_boxes(boxes) for boxes in annotators], rule)
    assert (merged is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(merged, as_boxes(expected))


def test_agreement_is_the_mean_iou_of_pairs() -> None:
    """Of marked pixels; two who hear nothing agree, one who does not disagrees with both."""
    boxes = [as_boxes([_A]), as_boxes([_B])]
    assert agreement(boxes, 64, 32) == pytest.approx(80 / 120, abs=0.01)
    assert agreement([_NONE, _NONE], 64, 32) == 1
    assert agreement([_NONE, _NONE, as_boxes([_A])], 64, 32) == pytest.approx(1 / 3)
