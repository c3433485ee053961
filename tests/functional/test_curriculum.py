"""Pacing, reliability and selection against formulas and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsl.functional.curriculum import Shape, admission_threshold, pace, soft_iou
from avsl.functional.pseudo_labels import mask_iou

SHAPES: tuple[Shape, ...] = ("linear", "root", "step")
seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("shape", SHAPES)
@given(
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), length=st.integers(0, 50), step=st.integers(0, 60)
)
@settings(max_examples=60, deadline=None)
def test_the_share_grows_from_start_to_end(shape: Shape, shares: list[float], length: int, step: int) -> None:
    """Never falling, within its bounds, ``start`` at step 0 of a curriculum that has a length, ``end`` after it."""
    start, end = shares
    share, later = (pace(s, start, end, length, shape) for s in (step, step + 1))
    assert start - 1e-9 <= share <= later + 1e-9 <= end + 2e-9
    assert pace(length, start, end, length, shape) == end
    if length:
        assert pace(0, start, end, length, shape) == pytest.approx(start)


def test_the_shapes_are_what_they_are_called() -> None:
    """A line, a square root that is ahead of it, and a single step."""
    assert [pace(s, 0.2, 1.0, 4, "linear") for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    expected = [math.sqrt(0.04 + 0.96 * s / 4) for s in range(5)]
    assert [pace(s, 0.2, 1.0, 4, "root") for s in range(5)] == pytest.approx(expected)
    assert [pace(s, 0.2, 1.0, 4, "step") for s in range(6)] == [0.2, 0.2, 0.2, 0.2, 1.0, 1.0]


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_soft_iou_is_what_the_loop_says(seed: int) -> None:
    """Σ min / Σ max over the known cells; the same for the two in another order, and with the rows in another one."""
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 5, 3, 4))
    known = (rng.random((5, 3, 4)) < 0.7).astype(np.float64)
    known[0] = 0
    expected = []
    for row in range(5):
        least = most = 0.0
        for y in range(3):
            for x in range(4):
                if known[row, y, x]:
                    least += min(first[row, y, x], second[row, y, x])
                    most += max(first[row, y, x], second[row, y, x])
        expected.append(least / most if most else 0.0)
    a, b, k = map(torch.from_numpy, (first, second, known))
    found = soft_iou(a, b, k)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch.testing.assert_close(soft_iou(b, a, k), found)
    order = torch.from_numpy(rng.permutation(5))
    torch.testing.assert_close(soft_iou(a[order], b[order], k[order]), found[order])


def test_soft_iou_of_masks_is_their_iou() -> None:
    """1 for a label and itself, 0 for empty ones, the IoU for binary ones."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 6, 4, 4, generator=generator) < 0.4).float()
    first[0] = second[0] = 0
    everywhere = torch.ones(6, 4, 4)
    torch.testing.assert_close(soft_iou(first, second, everywhere), mask_iou(first, second))
    soft = torch.rand(6, 4, 4, generator=generator)
    torch.testing.assert_close(soft_iou(soft, soft, everywhere), torch.ones(6))


@given(seed=seeds, n=st.integers(1, 40), percent=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_the_most_reliable_share_is_admitted(seed: int, n: int, percent: int) -> None:
    """⌈share · N⌉ of distinct values, and each of them is above all that are refused."""
    reliability = torch.from_numpy(np.random.default_rng(seed).permutation(n).astype(np.float32) / n)
    admitted = reliability >= admission_threshold(reliability, percent / 100)
    assert int(admitted.sum()) == -(-percent * n // 100)
    if admitted.any() and not admitted.all():
        assert reliability[admitted].min() > reliability[~admitted].max()


def test_ties_are_admitted_together_and_nothing_where_nothing_is_asked_for() -> None:
    """Equal reliabilities share one fate; a share of 0 and an empty ranking admit none."""
    reliability = torch.tensor([0.5, 0.2, 0.5, 0.5])
    assert (reliability >= admission_threshold(reliability, 0.25)).tolist() == [True, False, True, True]
    assert admission_threshold(reliability, 0.0) == math.inf
    assert admission_threshold(torch.zeros(0), 1.0) == math.inf
    assert admission_threshold(torch.zeros(3), 1.0) == 0
