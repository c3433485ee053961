"""Thresholds, agreement, consensus and the loss on pseudo-labels, against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avsl.functional.pseudo_labels import (
    average_labels,
    confident_mask,
    consensus,
    mask_iou,
    not_empty,
    pixel_bce,
    sharpen,
    to_finest_grid,
    to_grid,
)

seeds = st.integers(0, 10_000)


def _masks(seed: int, rows: int = 6, side: int = 3) -> tuple[Tensor, Tensor]:
    """Two sets of binary masks with empty, equal, disjoint and overlapping pairs among them."""
    rng = np.random.default_rng(seed)
    first, second = (rng.random((2, rows, side, side)) < rng.uniform(0, 0.9, (2, rows, 1, 1))).astype(np.float32)
    first[0] = 0
    second[:2] = 0
    second[2] = 1 - first[2]
    second[3] = first[3]
    return torch.from_numpy(first), torch.from_numpy(second)


def _loop_consensus(first: Tensor, second: Tensor, tau: float) -> tuple[list[bool], list[float]]:
    accepted, agreement = [], []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        both = either = 0
        for row_a, row_b in zip(a, b, strict=True):
            for p, q in zip(row_a, row_b, strict=True):
                both += p == 1 and q == 1
                either += p == 1 or q == 1
        agreement.append(both / either if either else 0.0)
        accepted.append(both > 0 and both / either >= tau)
    return accepted, agreement


@given(seed=seeds, tau=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
@settings(max_examples=40, deadline=None)
def test_consensus_is_what_the_loop_says(seed: int, tau: float) -> None:
    """Accepted iff the IoU reaches τ and the masks overlap; the agreement is the IoU."""
    first, second = _masks(seed)
    accepted, agreement = consensus(first, second, tau)
    expected, iou = _loop_consensus(first, second, tau)
    assert accepted.tolist() == expected
    np.testing.assert_allclose(agreement.numpy(), iou, rtol=1e-6)
    torch.testing.assert_close(mask_iou(first, second), agreement)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_consensus_does_not_know_which_teacher_is_which(seed: int) -> None:
    """Exchanged teachers agree alike, and rows in another order get their own answers in that order."""
    first, second = _masks(seed)
    accepted, agreement = consensus(first, second, 0.4)
    swapped, agreement_swapped = consensus(second, first, 0.4)
    assert torch.equal(accepted, swapped)
    torch.testing.assert_close(agreement, agreement_swapped)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(first)))
    shuffled, agreement_shuffled = consensus(first[order], second[order], 0.4)
    assert torch.equal(shuffled, accepted[order])
    torch.testing.assert_close(agreement_shuffled, agreement[order])


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_no_threshold_accepts_every_overlap_and_nothing_else(seed: int) -> None:
    """τ = 0 takes each pair that shares a cell, never an empty or a disjoint one; τ = 1 only equal ones."""
    first, second = _masks(seed)
    overlap = [bool((a.bool() & b.bool()).any()) for a, b in zip(first, second, strict=True)]
    assert consensus(first, second, 0.0)[0].tolist() == overlap
    equal = [bool(torch.equal(a, b)) and bool(a.any()) for a, b in zip(first, second, strict=True)]
    assert consensus(first, second, 1.0)[0].tolist() == equal


def test_a_threshold_above_every_confidence_rejects_all() -> None:
    """Where no cell reaches δ the mask is empty, and no pair of such masks is accepted."""
    confidence = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8
    mask = confident_mask(confidence, 0.81)
    assert mask.sum() == 0
    assert not not_empty(mask).any()
    assert not consensus(mask, mask, 0.0)[0].any()


def test_the_threshold_itself_is_confident() -> None:
    """M = 1[P ≥ δ], bound included."""
    confidence = torch.tensor([[[0.25, 0.5], [0.75, 0.0]]])
    assert confident_mask(confidence, 0.5).tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert confident_mask(confidence, 0.0).min() == 1
    assert not_empty(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]])).tolist() == [False, True]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_bce_is_what_the_loop_says(weighted: bool, seed: int) -> None:
    """The weighted mean of -t log σ(x) - (1 - t) log(1 - σ(x)) over the cells of each row."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(4, 3, 5, generator=generator)
    target, weight = torch.rand(2, 4, 3, 5, generator=generator)
    expected = []
    for row in range(4):
        total = mass = 0.0
        for y in range(3):
            for x in range(5):
                p = 1 / (1 + math.exp(-float(logits[row, y, x])))
                t, w = float(target[row, y, x]), float(weight[row, y, x]) if weighted else 1.0
                total -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
                mass += w
        expected.append(total / mass)
    loss = pixel_bce(logits, target, weight if weighted else None)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-4)


def test_rows_and_cells_without_weight_teach_nothing() -> None:
    """All-zero weights give a loss and a gradient of 0; so does a single cell of weight 0."""
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.ones(2, 3, 3)
    weight[0] = 0
    weight[1, 1, 1] = 0
    loss = pixel_bce(logits, torch.ones(2, 3, 3), weight)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[0] == 0
    assert loss[1] > 0
    assert gradient[0].abs().max() == 0
    assert gradient[1, 1, 1] == 0
    assert (gradient[1] != 0).sum() == 8


def test_a_cell_of_the_grid_is_the_share_that_is_covered() -> None:
    """Coarse cells are means of their pixels; a mask of the grid's size is unchanged."""
    mask = (torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    coarse = to_grid(mask, (4, 3))
    for row in range(3):
        for y in range(4):
            for x in range(3):
                expected = mask[row, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4].mean()
                assert float(coarse[row, y, x]) == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(to_grid(mask, (8, 12)), mask)


@given(p=st.floats(0, 1, width=32), temperature=st.floats(0.05, 1))
@settings(max_examples=100, deadline=None)
def test_sharpening_is_the_ratio_of_powers(p: float, temperature: float) -> None:
    """Q = P^{1/T} / (P^{1/T} + (1 - P)^{1/T}), in double precision; the complement sharpens to the complement."""
    q, r = sharpen(torch.tensor([p, 1 - p], dtype=torch.float64), temperature).tolist()
    a, b = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    assert q == pytest.approx(a / (a + b), abs=1e-9)
    assert q + r == pytest.approx(1, abs=1e-9)


def test_sharpening_keeps_the_order_and_the_ends() -> None:
    """0, 1/2 and 1 stay; all else moves away from 1/2 in order; T = 1 moves nothing and a small T hardens safely."""
    p = torch.linspace(0, 1, 101)
    q = sharpen(p, 0.5)
    torch.testing.assert_close(q[[0, 50, 100]], torch.tensor([0.0, 0.5, 1.0]))
    assert (q.diff() > 0).all()
    assert (q[1:50] < p[1:50]).all()
    assert (q[51:100] > p[51:100]).all()
    torch.testing.assert_close(sharpen(p, 1.0), p)
    hard = sharpen(p, 1e-4)
    torch.testing.assert_close(hard[[0, 10, 49, 51, 90, 100]], torch.tensor([0.0, 0, 0, 1, 1, 1]))


@given(seed=seeds, momentum=st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_averaged_labels_are_what_the_loop_says(seed: int, momentum: float) -> None:
    """Over several visits: the first seen label as it is, then the average, cell by cell; NaN until then."""
    rng = np.random.default_rng(seed)
    label = torch.full((2, 3, 3), math.nan, dtype=torch.float64)
    expected: list[float | None] = [None] * 18
    for _ in range(4):
        current, seen = rng.random((2, 3, 3)), rng.random((2, 3, 3)) < 0.4
        label = average_labels(label, torch.from_numpy(current), torch.from_numpy(seen), momentum)
        for k, (q, shown) in enumerate(zip(current.flat, seen.flat, strict=True)):
            if shown:
                old = expected[k]
                expected[k] = q if old is None else momentum * old + (1 - momentum) * q
        np.testing.assert_allclose(label.flatten(), [math.nan if e is None else e for e in expected])


def test_maps_meet_on_the_finest_grid() -> None:
    """The map with the most cells is left alone, whichever it is; a constant stays that constant."""
    fine = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    for maps in ([fine, torch.full((2, 3, 3), 0.25)], [torch.full((2, 3, 3), 0.25), fine]):
        same = to_finest_grid(maps)
        assert [m.shape for m in same] == [fine.shape, fine.shape]
        for before, after in zip(maps, same, strict=True):
            torch.testing.assert_close(after, before if before is fine else torch.full_like(fine, 0.25))
