"""Boxes drawn as pixels, against slices of an array."""

from __future__ import annotations

import numpy as np
import pytest

from avsl.functional.boxes import box_mask, consensus_map


def test_a_mask_is_the_union_of_its_boxes() -> None:
    """Overlapping boxes, one without width, one that reaches beyond the frame as in VGG-SS; none."""
    boxes = np.array([[0.1, 0.25, 0.5, 0.8], [0.33, 0.5, 0.7, 1.2], [0.5, 0.5, 0.5, 0.9], [-2.88e16, 0, 0.1, 0.1]])
    expected = np.zeros((50, 50), bool)
    for x0, y0, x1, y1 in [(5, 12, 25, 40), (16, 25, 35, 50), (0, 0, 5, 5)]:
        expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(box_mask(boxes, 50), expected)
    assert not box_mask(np.zeros((0, 4)), 50).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [49, 93, 224])
def test_a_corner_on_a_pixel_keeps_its_pixel(size: int, dtype: type[np.floating]) -> None:
    """K / size times size may fall below k, in either precision."""
    for k in range(size):
        box = np.array([[k, k, k + 1, k + 1]], dtype) / dtype(size)
        assert np.argwhere(box_mask(box, size)).tolist() == [[k, k]]


def test_consensus_counts_annotators_in_halves() -> None:
    """One box 0.5, two or three 1; a box of zeros is none."""
    boxes = np.array([[0, 0, 128, 256], [64, 0, 192, 256], [64, 0, 128, 128], [0, 0, 0, 0]]) / 256
    found = consensus_map(boxes, 8)
    for column, value in ((0, 0.5), (2, 1.0), (5, 0.5), (7, 0.0)):
        assert found[:, column].tolist() == [value] * 8


@pytest.mark.parametrize("draw", [box_mask, consensus_map])
def test_a_corner_that_is_no_number_is_refused(draw: type) -> None:
    """By either way of drawing."""
    with pytest.raises(ValueError, match="corner"):
        draw(np.array([[0.1, np.nan, 0.5, 0.5]]), 8)
