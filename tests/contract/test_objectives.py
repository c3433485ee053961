"""What every objective promises of its views and, if contrastive, of its rows: registered is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from avsl.objectives import OBJECTIVES
from avsl.types import AVOutput, Head

CONTRASTIVE = sorted(OBJECTIVES.keys() - {"sspl"})  # SSPL has no negatives
LATE = 10**6  # a step after any warm-up


def _embeddings(pairs: int, seed: int = 0) -> list[Tensor]:
    """Two heads' normalized visual and audio embeddings, and as many of momentum encoders."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(pairs, 6, 3, 3), (pairs, 6)] * 4
    return [F.normalize(torch.randn(s, generator=generator, dtype=torch.float64), dim=1) for s in shapes]


def _loss(name: str, tensors: Sequence[Tensor], recording: Tensor | None) -> Tensor:
    """The loss at a temperature at which every negative counts."""
    build, config = OBJECTIVES[name]
    online, target = (
        AVOutput((Head(*part[:2]), Head(*part[2:])), part[0][:, 0], part[0], recording=recording)
        for part in (tensors[:4], tensors[4:])
    )
    objective = build(config.read({"temperature": 0.5}, name))
    return objective([replace(online, momentum=target)], LATE).total


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_published_loss_stays_where_no_two_rows_are_of_one_recording(name: str) -> None:
    """To the bit."""
    tensors = _embeddings(5)
    assert torch.equal(_loss(name, tensors, torch.tensor([4, 0, 9, 2, 7])), _loss(name, tensors, None))


@pytest.mark.parametrize("name", CONTRASTIVE)
@settings(max_examples=20, deadline=None)
@given(pairs=st.integers(2, 5), copied=st.lists(st.integers(0, 4), max_size=3), seed=st.integers(0, 99))
def test_a_row_that_comes_twice_changes_no_other_rows_loss(name: str, pairs: int, copied: list[int], seed: int) -> None:
    """Only the mean over the rows: the sum of all grows by the copied rows' losses, and all rows twice are as once."""
    tensors = _embeddings(pairs, seed)

    def total(*rows: int) -> Tensor:
        order = torch.tensor(rows)
        return len(rows) * _loss(name, [tensor[order] for tensor in tensors], order)

    once, copied = total(*range(pairs)), [k % pairs for k in copied]
    added = [total(*range(pairs), k) - once for k in copied]
    torch.testing.assert_close(total(*range(pairs), *copied), once + sum(added))
    torch.testing.assert_close(sum(total(*range(pairs), k) - once for k in range(pairs)), once)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_rows_of_one_recording_are_no_negatives_of_each_other(name: str) -> None:
    """The loss of two is the mean of each one's alone, and so is the gradient of every embedding."""

    def gradients(rows: slice, recording: Sequence[int]) -> list[Tensor]:
        tensors = [tensor[rows].clone().requires_grad_() for tensor in _embeddings(2)]
        loss = _loss(name, tensors, torch.tensor(recording))
        found = torch.autograd.grad(loss, tensors, allow_unused=True)
        return [loss[None], *(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True))]

    alone = [torch.cat(pair) / 2 for pair in zip(gradients(slice(1), [3]), gradients(slice(1, 2), [3]), strict=True)]
    alone[0] = alone[0].sum()[None]
    for together, expected in zip(gradients(slice(2), [3, 3]), alone, strict=True):
        torch.testing.assert_close(together, expected)
    contrasted = gradients(slice(2), [3, 4])
    assert any((found - expected).abs().max() > 1e-2 for found, expected in zip(contrasted, alone, strict=True))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_order_of_pairs_and_cells_does_not_matter(name: str) -> None:
    """Permuted pairs and a mirrored grid leave the loss."""
    tensors, order = _embeddings(4), torch.tensor([3, 1, 0, 2])
    loss = _loss(name, tensors, None)
    torch.testing.assert_close(_loss(name, [tensor[order] for tensor in tensors], None), loss)
    torch.testing.assert_close(_loss(name, [t.flip(-1) if t.ndim == 4 else t for t in tensors], None), loss)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_another_number_of_views_is_refused(name: str) -> None:
    """One in place of two, two in place of one."""
    build, config = OBJECTIVES[name]
    objective = build(config.read({"dim": 6} if name == "sspl" else {}, name))
    visual, audio = (tensor.float() for tensor in _embeddings(2)[:2])
    view = AVOutput((Head(visual, audio),), visual[:, 0], visual)
    with pytest.raises(ValueError, match="unpack"):
        objective([view] * (3 - objective.needs.views), 0)
