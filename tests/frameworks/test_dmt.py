"""DMT on tables whose every answer is known: filter, intersection, loss and averages against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsl.frameworks.branch import Branch
from avsl.frameworks.dmt import DMT, DMTConfig
from avsl.functional.geometry import identity
from avsl.types import SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]
Array = NDArray[np.float64]

ROWS = slice(3, 8)  # the unlabeled rows of table_batch


def _confident(cells: list[list[tuple[int, int]]]) -> Tensor:
    """Logits of 5 unlabeled rows on a 4 x 4 grid: sure where named, sure of silence elsewhere."""
    logits = torch.full((5, 4, 4), -5.0)
    for row, named in enumerate(cells):
        for y, x in named:
            logits[row, y, x] = 5.0
    return logits


# By row: equal, half shared (IoU 1/3), disjoint, one empty, both empty.
FIRST = _confident([[(0, 0), (0, 1)], [(1, 1), (1, 2)], [(0, 0)], [(2, 2)], []])
SECOND = _confident([[(0, 0), (0, 1)], [(1, 2), (1, 3)], [(3, 3)], [], []])


def _table(framework: DMT, k: int, *, teacher: bool) -> nn.Parameter:
    branch = framework.teachers[k] if teacher else framework.students[k]
    logits = branch.get_parameter("model.logits")
    assert isinstance(logits, nn.Parameter)
    return logits


def _teach(framework: DMT, *answers: Tensor) -> None:
    with torch.no_grad():
        for k, answer in enumerate(answers):
            _table(framework, k, teacher=True)[ROWS] = answer


def _bce(logits: Tensor, target: Array) -> Array:
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    losses: Array = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    rows: Array = losses.mean((1, 2))
    return rows


@pytest.mark.parametrize(
    ("tau", "accepted"),
    [(0.0, [True, True, False, False, False]), (0.5, [True, False, False, False, False])],
)
def test_a_clip_is_taken_where_the_teachers_agree_and_the_label_is_what_they_share(
    tables: MakeTables, table_batch: SemiBatch, tau: float, accepted: list[bool]
) -> None:
    """The agreement is the IoU of the two masks, the label their intersection; disjoint and empty ones never teach."""
    framework = DMT(tables(4, 4), DMTConfig(delta=0.5, tau=tau, warmup_steps=0, contrastive_weight=0))
    _teach(framework, FIRST, SECOND)
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    assert output.pseudo.agreement is not None
    np.testing.assert_allclose(output.pseudo.agreement.numpy(), [1, 1 / 3, 0, 0, 0], atol=1e-6)
    assert output.pseudo.accepted.tolist() == accepted
    both = ((FIRST > 0) & (SECOND > 0)).double().numpy()
    np.testing.assert_array_equal(output.pseudo.mask.numpy(), both)
    for k, name in enumerate("ab"):
        student = _table(framework, k, teacher=False)[ROWS]
        expected = (_bce(student, both) * np.array(accepted)).sum() / 5
        assert float(output.loss.parts[f"unlabeled_{name}"]) == pytest.approx(expected, rel=1e-5)


def test_the_ablations_teach_other_masks_of_the_same_clips(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Union and the first teacher's mask replace the intersection; the filter accepts what it accepted."""
    masks = {"union": (FIRST > 0) | (SECOND > 0), "first": FIRST > 0}
    for target, expected in masks.items():
        config = DMTConfig.read({"delta": 0.5, "tau": 0, "warmup_steps": 0, "target": target}, "framework.dmt")
        framework = DMT(tables(4, 4), config)
        _teach(framework, FIRST, SECOND)
        pseudo = framework.training_step(table_batch, 0).pseudo
        assert pseudo is not None
        assert pseudo.accepted.tolist() == [True, True, False, False, False]
        assert torch.equal(pseudo.mask.bool(), expected)


def test_the_label_does_not_depend_on_which_teacher_is_which(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Teachers that change places accept and label alike."""
    framework = DMT(tables(4, 4), DMTConfig(delta=0.5, tau=0.2, warmup_steps=0))
    assert table_batch.unlabeled is not None
    assert table_batch.unlabeled.weak is not None
    _teach(framework, FIRST, SECOND)
    one = framework.label(table_batch.unlabeled.weak)
    _teach(framework, SECOND, FIRST)
    other = framework.label(table_batch.unlabeled.weak)
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.accepted, other.accepted)


def test_teachers_below_the_threshold_teach_nothing(tables: MakeTables, table_batch: SemiBatch) -> None:
    """δ above every confidence accepts no clip, and the loss on pseudo-labels and its gradient are 0."""
    framework = DMT(tables(4, 4), DMTConfig(delta=1.0, tau=0.0, warmup_steps=0, contrastive_weight=0))
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    assert not output.pseudo.accepted.any()
    assert float(output.loss.parts["unlabeled_a"]) == float(output.loss.parts["unlabeled_b"]) == 0
    logits = _table(framework, 0, teacher=False)
    (gradient,) = torch.autograd.grad(output.loss.total, logits)
    assert gradient[ROWS].abs().max() == 0
    assert gradient[:3].abs().max() > 0


def test_the_total_is_the_weighted_sum_of_its_parts(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Supervised at 1, the others at their weights, for both students; supervised is H(G, P) on the grid."""
    config = DMTConfig(delta=0.5, tau=0.0, warmup_steps=0, unlabeled_weight=0.3, contrastive_weight=0.7)
    framework = DMT(tables(4, 4), config)
    _teach(framework, FIRST, SECOND)
    loss = framework.training_step(table_batch, 0).loss
    weights = {"supervised": 1.0, "unlabeled": 0.3, "contrastive": 0.7}
    assert set(loss.parts) == {f"{term}_{name}" for term in weights for name in "ab"}
    expected = sum(weights[name[:-2]] * float(part) for name, part in loss.parts.items())
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-6)
    mask = table_batch.labeled.strong[0].mask
    assert mask is not None
    grid = mask.double().numpy().reshape(3, 4, 2, 4, 2).mean((2, 4))
    supervised = _bce(_table(framework, 0, teacher=False)[:3], grid).mean()
    assert float(loss.parts["supervised_a"]) == pytest.approx(supervised, rel=1e-5)


def test_labels_follow_the_strong_view(tables: MakeTables, table_batch: SemiBatch) -> None:
    """A mirrored strong view is taught the mirrored label; one that shows more is not taught what was not seen."""
    framework = DMT(tables(4, 4), DMTConfig(delta=0.5, tau=1.0, warmup_steps=0, contrastive_weight=0))
    _teach(framework, FIRST, FIRST)
    assert table_batch.unlabeled is not None
    (strong,) = table_batch.unlabeled.strong
    flip = identity(5).clone()
    flip[:, 0, 0] = -1
    mirrored = replace(table_batch, unlabeled=replace(table_batch.unlabeled, strong=(replace(strong, geometry=flip),)))
    student = _table(framework, 0, teacher=False)[ROWS]
    accepted = np.array([1, 1, 1, 1, 0])
    target = (FIRST > 0).double().numpy()
    for batch, expected in ((table_batch, target), (mirrored, target[:, :, ::-1])):
        part = framework.training_step(batch, 0).loss.parts["unlabeled_a"]
        assert float(part) == pytest.approx(float((_bce(student, expected) * accepted).mean()), rel=1e-4)
    left = identity(5).clone()
    left[:, 0, 0], left[:, 0, 2] = 0.5, -0.5
    weak = replace(strong, geometry=left)
    half = replace(table_batch, unlabeled=replace(table_batch.unlabeled, weak=weak))
    (gradient,) = torch.autograd.grad(framework.training_step(half, 0).loss.total, _table(framework, 0, teacher=False))
    assert gradient[3:7, :, 3].abs().max() == 0
    assert gradient[3:7, :, 0].abs().min() > 0


def test_students_may_differ_in_resolution(tables: MakeTables, table_batch: SemiBatch) -> None:
    """A pair with grids of 4 and 8 cells agrees on the first's grid, and each learns on its own."""
    framework = DMT(tables(4, 8), DMTConfig(delta=0.5, tau=1.0, warmup_steps=0, contrastive_weight=0))
    fine = FIRST.repeat_interleave(2, 1).repeat_interleave(2, 2)
    _teach(framework, FIRST, fine)
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    assert output.pseudo.accepted.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(output.pseudo.mask.numpy(), (FIRST > 0).numpy())
    gradient = torch.autograd.grad(output.loss.total, _table(framework, 1, teacher=False))[0]
    assert gradient.shape == (8, 8, 8)
    assert gradient[3:7].abs().min() > 0


def test_each_teacher_averages_its_own_student(tables: MakeTables) -> None:
    """A copy until the warm-up ends, then θ ← β θ + (1 − β) θ_student, pair by pair."""
    framework = DMT(tables(4, 4), DMTConfig(ema_decay=0.8, warmup_steps=3))
    for k in range(2):
        torch.testing.assert_close(_table(framework, k, teacher=True), _table(framework, k, teacher=False))
    expected = [np.zeros(1), np.zeros(1)]
    for step in range(6):
        with torch.no_grad():
            for k in range(2):
                _table(framework, k, teacher=False).add_(0.1 * (k + 1) * (step + 1))
        framework.after_step(step)
        for k in range(2):
            student = _table(framework, k, teacher=False).detach().double().numpy()
            expected[k] = student if step < 3 else 0.8 * expected[k] + 0.2 * student
            np.testing.assert_allclose(_table(framework, k, teacher=True).detach().numpy(), expected[k], atol=1e-5)
    assert [id(model) for model in framework.eval_models()] == [id(t.model) for t in framework.teachers]
