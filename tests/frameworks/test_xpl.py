"""XPL on tables whose every answer is known: labels, memory, curriculum and loss against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fixtures.messages import facts
from torch import Tensor, nn

from avsl.frameworks.branch import Branch
from avsl.frameworks.xpl import XPL, PacingConfig, XPLConfig
from avsl.functional.geometry import identity
from avsl.schema import ConfigError
from avsl.types import SemiBatch, Views

MakeTables = Callable[..., Callable[[int], Branch]]
Array = NDArray[np.float64]

ROWS = slice(3, 8)  # the unlabeled rows of table_batch
EVERYTHING = PacingConfig(start=1, end=1)


def _make(branches: Callable[[int], Branch], **settings: Any) -> XPL:
    """With labels from the first step, without the objective and without a curriculum where nothing else is said."""
    defaults = {"warmup_steps": 0, "contrastive_weight": 0, "pacing": EVERYTHING}
    return XPL(branches, XPLConfig(**(defaults | settings)))


def _table(framework: XPL, k: int) -> nn.Parameter:
    logits = framework.peers[k].get_parameter("model.logits")
    assert isinstance(logits, nn.Parameter)
    return logits


def _answer(framework: XPL, k: int) -> Array:
    """What peer k says of the unlabeled rows."""
    p: Array = 1 / (1 + np.exp(-_table(framework, k)[ROWS].detach().double().numpy()))
    return p


def _sharp(p: Array, temperature: float) -> Array:
    a, b = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    q: Array = a / (a + b)
    return q


def _bce(p: Array, target: Array) -> Array:
    losses: Array = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    rows: Array = losses.mean((1, 2))
    return rows


def _change(framework: XPL, seed: int) -> None:
    """Let the peers say something else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k in range(2):
            _table(framework, k).copy_(2 * torch.randn(_table(framework, k).shape, generator=generator))


def _seen_through(batch: SemiBatch, *, weak: Tensor | None = None, strong: Tensor | None = None) -> SemiBatch:
    """The batch with other geometries of the unlabeled rows' views."""
    assert batch.unlabeled is not None
    assert batch.unlabeled.weak is not None
    (view,) = batch.unlabeled.strong
    asked = batch.unlabeled.weak if weak is None else replace(batch.unlabeled.weak, geometry=weak)
    return replace(batch, unlabeled=Views((view if strong is None else replace(view, geometry=strong),), weak=asked))


def _of_rows(batch: SemiBatch, rows: Sequence[int]) -> SemiBatch:
    """The batch with these unlabeled rows alone, by their row number."""
    assert batch.unlabeled is not None
    view = batch.unlabeled.strong[0]
    few = replace(view, frame=view.frame[: len(rows)], index=torch.tensor(rows), geometry=identity(len(rows)))
    return replace(batch, unlabeled=Views((few,), weak=few))


def _flip() -> Tensor:
    geometry = identity(5).clone()
    geometry[:, 0, 0] = -1
    return geometry


def _half(side: float) -> Tensor:
    """The view of the frame's left (-1) or right (1) half."""
    geometry = identity(5).clone()
    geometry[:, 0, 0], geometry[:, 0, 2] = 0.5, 0.5 * side
    return geometry


@pytest.mark.parametrize("cross", [True, False])
def test_each_peer_learns_the_others_averaged_sharpened_label(
    tables: MakeTables, table_batch: SemiBatch, cross: bool
) -> None:
    """Over three visits Ŷ ← m Ŷ + (1 - m) Q, the first as it is; the loss is H(Ŷ_B, P_A) and H(Ŷ_A, P_B), or own."""
    framework = _make(
        tables(4, 4), cross=cross, temperature=0.4, label_momentum=0.7, unlabeled_weight=0.3, contrastive_weight=0.6
    )
    labels: list[Array] = []
    for visit in range(3):
        _change(framework, visit)
        output = framework.training_step(table_batch, visit)
        answers = [_answer(framework, k) for k in range(2)]
        sharp = [_sharp(p, 0.4) for p in answers]
        labels = [0.7 * y + 0.3 * q for y, q in zip(labels, sharp, strict=True)] if labels else sharp
        for k, name in enumerate("ab"):
            expected = _bce(answers[k], labels[1 - k if cross else k]).mean()
            assert float(output.loss.parts[f"unlabeled_{name}"]) == pytest.approx(expected, rel=2e-3)
        assert output.pseudo is not None
        np.testing.assert_allclose(output.pseudo.mask.numpy(), (labels[0] + labels[1]) / 2, atol=1e-3)
        agreement = np.minimum(*labels).sum((1, 2)) / np.maximum(*labels).sum((1, 2))
        assert output.pseudo.agreement is not None
        np.testing.assert_allclose(output.pseudo.agreement.numpy(), agreement, atol=2e-3)
        weights = {"supervised": 1.0, "unlabeled": 0.3, "contrastive": 0.6}
        assert set(output.loss.parts) == {f"{term}_{name}" for term in weights for name in "ab"}
        total = sum(weights[name[:-2]] * float(part) for name, part in output.loss.parts.items())
        assert float(output.loss.total.detach()) == pytest.approx(total, rel=1e-6)


def test_no_gradient_goes_into_a_label(tables: MakeTables, table_batch: SemiBatch) -> None:
    """The gradient on a peer's logits is P - Ŷ of the other, and nothing from what it taught."""
    framework = _make(tables(4, 4))
    total = framework.training_step(table_batch, 0).loss.total
    for k in range(2):
        (gradient,) = torch.autograd.grad(total, _table(framework, k), retain_graph=True)
        expected = (_answer(framework, k) - _sharp(_answer(framework, 1 - k), 0.5)) / (5 * 16)
        np.testing.assert_allclose(gradient[ROWS].numpy(), expected, atol=1e-6)


def test_peers_that_change_places_change_roles(tables: MakeTables, table_batch: SemiBatch) -> None:
    """What A was, B is: each loss goes with its peer, and rows are selected alike."""
    make = tables(4, 4)
    first, second = (_make(branches, pacing=PacingConfig(start=0.4)) for branches in (make, lambda k: make(1 - k)))
    one, other = (framework.training_step(table_batch, 0) for framework in (first, second))
    for name, part in one.loss.parts.items():
        swapped = name[:-1] + {"a": "b", "b": "a"}[name[-1]]
        torch.testing.assert_close(part, other.loss.parts[swapped])
    assert one.pseudo is not None
    assert other.pseudo is not None
    assert torch.equal(one.pseudo.accepted, other.pseudo.accepted)
    torch.testing.assert_close(one.pseudo.mask, other.pseudo.mask)


def test_no_momentum_no_memory(tables: MakeTables, table_batch: SemiBatch) -> None:
    """At m = 0 a second visit is a first one; at m > 0 it is not."""
    for momentum, forgets in ((0.0, True), (0.5, False)):
        old, new = (_make(tables(4, 4), label_momentum=momentum) for _ in range(2))
        _change(old, 1)
        old.training_step(table_batch, 0)
        for framework in (old, new):
            _change(framework, 2)
        second, first = (framework.training_step(table_batch, 1).loss.parts["unlabeled_a"] for framework in (old, new))
        assert torch.equal(second, first) == forgets


def test_without_sharpening_labels_are_confidences(tables: MakeTables, table_batch: SemiBatch) -> None:
    """T = 1: the other's P as it is; a small T: its side of one half."""
    for temperature, hard in ((1.0, False), (1e-3, True)):
        framework = _make(tables(4, 4), temperature=temperature)
        part = framework.training_step(table_batch, 0).loss.parts["unlabeled_a"]
        other = _answer(framework, 1)
        expected = _bce(_answer(framework, 0), (other > 0.5).astype(np.float64) if hard else other).mean()
        assert float(part) == pytest.approx(expected, rel=1e-3)


def test_labels_come_back_to_the_frame_and_follow_any_view(tables: MakeTables, table_batch: SemiBatch) -> None:
    """A label made in a mirrored weak view teaches its mirror image in the frame and itself in a mirrored view.

    What is remembered is the frame's: the next, unmirrored visit averages cell with cell.
    """
    flip = _flip()
    for strong, mirrored in ((None, True), (flip, False)):
        framework = _make(tables(4, 4))
        output = framework.training_step(_seen_through(table_batch, weak=flip, strong=strong), 0)
        made = _sharp(_answer(framework, 1), 0.5)
        expected = _bce(_answer(framework, 0), made[:, :, ::-1] if mirrored else made).mean()
        assert float(output.loss.parts["unlabeled_a"]) == pytest.approx(expected, rel=1e-3)
        assert output.pseudo is not None
        both = (made + _sharp(_answer(framework, 0), 0.5)) / 2
        np.testing.assert_allclose(output.pseudo.mask.numpy(), both, atol=1e-3)
        again = framework.training_step(table_batch, 1).loss.parts["unlabeled_a"]
        expected = _bce(_answer(framework, 0), (made + made[:, :, ::-1]) / 2).mean()
        assert float(again) == pytest.approx(expected, rel=2e-3)


def test_what_no_view_has_shown_teaches_nothing(tables: MakeTables, table_batch: SemiBatch) -> None:
    """After a view of the left half the right half has no label; a view of it gives one and leaves the left alone."""
    framework = _make(tables(4, 4))
    loss = framework.training_step(_seen_through(table_batch, weak=_half(-1)), 0).loss
    (gradient,) = torch.autograd.grad(loss.total, _table(framework, 0))
    assert gradient[ROWS, :, 2:].abs().max() == 0
    assert gradient[ROWS, :, :2].abs().min() > 0
    rows = np.arange(3, 8)
    left = framework.labels.read(rows, (4, 4))
    assert np.isnan(left[..., 2:]).all()
    assert not np.isnan(left[..., :2]).any()
    _change(framework, 1)
    loss = framework.training_step(_seen_through(table_batch, weak=_half(1)), 1).loss
    (gradient,) = torch.autograd.grad(loss.total, _table(framework, 0))
    assert gradient[ROWS].abs().min() > 0
    both = framework.labels.read(rows, (4, 4))
    np.testing.assert_array_equal(both[..., :2], left[..., :2])
    assert not np.isnan(both).any()


def test_a_clip_is_ranked_with_all_that_have_been_visited(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Admitted are the top share of every sample's latest reliability, whichever batch it came in; others teach not."""
    framework = _make(tables(4, 4), pacing=PacingConfig(start=0.4, end=0.4), label_momentum=0)
    ranking: dict[int, float] = {}
    admitted = 0
    for step, rows in enumerate(([3, 4], [5, 6, 7], [3, 7], [4, 6])):
        _change(framework, step)
        output = framework.training_step(_of_rows(table_batch, rows), step)
        assert output.pseudo is not None
        assert output.pseudo.agreement is not None
        ranking |= dict(zip(rows, output.pseudo.agreement.tolist(), strict=True))
        best = sorted(ranking, key=ranking.__getitem__)[-int(np.ceil(0.4 * len(ranking))) :]
        assert output.pseudo.accepted.tolist() == [row in best for row in rows]
        (gradient,) = torch.autograd.grad(output.loss.total, _table(framework, 0))
        for row in rows:
            assert bool(gradient[row].abs().max() > 0) == (row in best)
        admitted += int(output.pseudo.accepted.sum())
    assert 0 < admitted < 9


def test_the_share_grows_after_the_warm_up(tables: MakeTables, table_batch: SemiBatch) -> None:
    """From its start, when labels are first used, to its end, ``length`` steps later."""
    pacing = PacingConfig(start=0.2, end=1.0, length=4)
    framework = _make(tables(4, 4), pacing=pacing, warmup_steps=10)
    assert framework.training_step(table_batch, 9).pseudo is None
    shares = []
    for step in range(10, 16):
        pseudo = framework.training_step(table_batch, step).pseudo
        assert pseudo is not None
        shares.append(int(pseudo.accepted.sum()))
    assert shares == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("sizes", [(4, 8), (8, 4)])
def test_peers_may_differ_in_resolution(tables: MakeTables, table_batch: SemiBatch, sizes: tuple[int, int]) -> None:
    """Labels lie on the finer grid; the coarser peer learns their means, the finer one the enlarged map."""
    framework = _make(tables(*sizes), temperature=1.0)
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    assert output.pseudo.mask.shape[-2:] == (8, 8)
    coarse = sizes.index(4)
    fine = _answer(framework, 1 - coarse)
    means = fine.reshape(5, 4, 2, 4, 2).mean((2, 4))
    part = output.loss.parts[f"unlabeled_{'ab'[coarse]}"]
    assert float(part) == pytest.approx(_bce(_answer(framework, coarse), means).mean(), rel=1e-3)
    (gradient,) = torch.autograd.grad(output.loss.total, _table(framework, 1 - coarse))
    enlarged = nn.functional.interpolate(torch.from_numpy(_answer(framework, coarse))[:, None], (8, 8), mode="bilinear")
    np.testing.assert_allclose(gradient[ROWS].numpy(), (fine - enlarged[:, 0].numpy()) / (5 * 64), atol=1e-6)


def test_a_pacing_that_falls_is_refused() -> None:
    """With both ends."""
    with pytest.raises(ConfigError, match=facts("pacing.start 0.9 pacing.end 0.5")):
        XPLConfig.read({"pacing": {"start": 0.9, "end": 0.5}}, "framework.xpl")
