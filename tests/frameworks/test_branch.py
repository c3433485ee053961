"""What frameworks share: asking a student, and the loss on labels of another grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import nn

from avsl.frameworks.branch import Branch, forward_together, predict_in_eval_mode, pseudo_label_loss
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.types import AVBatch, SemiBatch, Views, join

MakeTables = Callable[..., Callable[[int], Branch]]


class MakeView(Protocol):
    """Draws a view of some rows (tests/conftest.py)."""

    def __call__(self, rows: int, seed: int) -> AVBatch:
        """The view."""
        ...


@pytest.mark.parametrize("training", [True, False])
def test_a_student_is_asked_in_evaluation_mode_and_left_as_it_was(
    tiny: LocalizerConfig, make_view: MakeView, training: bool
) -> None:
    """Its answer is that of the network in evaluation mode; mode, statistics and gradients are untouched."""
    student = Branch(Localizer(tiny), EZVSL(EZVSLConfig()))
    view = make_view(4, 0)
    for _ in range(3):
        student([view])
    student.train(training)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    answer = predict_in_eval_mode(student, view)
    assert all(part.training == training for part in student.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not answer.logits.requires_grad
    torch.testing.assert_close(answer.logits, student.model.eval()(view).logits.detach())


def test_labeled_and_unlabeled_rows_share_batch_norm_statistics(tiny: LocalizerConfig, make_view: MakeView) -> None:
    """One pass over both: the statistics it uses and keeps are those of all rows, not of either part."""
    torch.manual_seed(0)
    student = Branch(Localizer(tiny), EZVSL(EZVSLConfig()))
    state = {name: value.clone() for name, value in student.state_dict().items()}
    first, second = make_view(3, 0), make_view(4, 1)
    _, labeled, unlabeled = forward_together(student, SemiBatch(Views((first,)), Views((second,))))
    assert unlabeled is not None
    kept = {name: value.clone() for name, value in student.state_dict().items()}
    student.load_state_dict(state)
    (whole,) = student([join(first, second)])
    assert torch.equal(torch.cat([labeled, unlabeled]), whole.logits)
    assert all(torch.equal(value, kept[name]) for name, value in student.state_dict().items())
    student.load_state_dict(state)
    (alone,) = student([first])
    assert (alone.logits - labeled).abs().max() > 1e-3
    assert any(not torch.equal(value, kept[name]) for name, value in student.state_dict().items())


def test_rows_of_one_recording_reach_the_objective_as_such(tables: MakeTables) -> None:
    """Of the two of one recording, in a labeled and an unlabeled view, no gradient separates them."""
    student = tables(4)(0)

    def view(rows: list[int], recording: list[int]) -> AVBatch:
        plain = AVBatch(torch.zeros(1, 3, 2, 2), None, {}, torch.tensor(rows), torch.zeros(1, 2, 3))
        return replace(plain, recording=torch.tensor(recording))

    batch = SemiBatch(Views((view([0], [5]),)), Views((view([1], [5]),)))
    outputs, _, _ = forward_together(student, batch)
    assert float(student.contrastive(outputs, 0).total) == 0
    other = replace(batch, unlabeled=Views((view([1], [6]),)))
    outputs, _, _ = forward_together(student, other)
    assert float(student.contrastive(outputs, 0).total) > 0.1


def test_a_student_that_fails_keeps_its_mode(tables: MakeTables) -> None:
    """An error in the network leaves it in training mode."""
    student = tables(4)(0)

    class Broken(nn.Module):
        def forward(self, _: AVBatch) -> None:
            raise RuntimeError("broken")

    student.model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        predict_in_eval_mode(student, make_empty())
    assert student.model.training


def make_empty() -> AVBatch:
    """A view of no rows."""
    return AVBatch(torch.zeros(0, 3, 2, 2), None, {}, torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, 3))


def test_calibration_is_what_the_model_says_it_is(tiny: LocalizerConfig, tables: MakeTables) -> None:
    """A localizer's scale and offset; nothing where the model has no such."""
    model = Localizer(tiny)
    found = Branch(model, EZVSL(EZVSLConfig())).calibration()
    assert {id(p) for p in found} == {id(model.log_scale), id(model.offset)}
    assert tables(4)(0).calibration() == []


def test_a_coarse_cells_label_is_the_mean_of_what_was_seen_of_it() -> None:
    """Labels of a finer grid teach Σ label · seen / Σ seen, weighted by how much was seen; unseen ones say nothing."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 2, 2))
    target, seen = rng.random((3, 4, 4)), (rng.random((3, 4, 4)) < 0.6).astype(np.float64)
    seen[0, :2, :2] = 0
    accepted = np.array([1.0, 1.0, 0.0])
    p = 1 / (1 + np.exp(-logits))
    expected = 0.0
    for row in range(3):
        total = mass = 0.0
        for y in range(2):
            for x in range(2):
                cells = np.s_[row, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                weight = seen[cells].mean()
                if weight:
                    label = (target[cells] * seen[cells]).sum() / seen[cells].sum()
                    total -= weight * (label * np.log(p[row, y, x]) + (1 - label) * np.log(1 - p[row, y, x]))
                    mass += weight
        expected += accepted[row] * total / mass / 3
    arguments = [torch.from_numpy(a) for a in (logits, target, seen, accepted)]
    assert float(pseudo_label_loss(*arguments)) == pytest.approx(expected, rel=1e-5)
    arguments[1] = torch.where(arguments[2] > 0, arguments[1], 0.9)
    assert float(pseudo_label_loss(*arguments)) == pytest.approx(expected, rel=1e-5)
