"""The mean teacher on tables whose every answer is known: labels, loss and average against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avsl.frameworks.branch import Branch
from avsl.frameworks.mean_teacher import MeanTeacher, MeanTeacherConfig
from avsl.types import SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]
ROWS = slice(3, 8)  # the unlabeled rows of table_batch


def _logits(framework: MeanTeacher, *, teacher: bool) -> Tensor:
    return (framework.teacher if teacher else framework.student).get_parameter("model.logits")


def test_the_teacher_labels_what_it_is_sure_of(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Y = 1[P ≥ δ]; a clip without a sure cell counts 0 in the mean over all unlabeled rows."""
    config = MeanTeacherConfig(delta=0.7, warmup_steps=0, contrastive_weight=0.25, unlabeled_weight=0.5)
    framework = MeanTeacher(tables(4), config)
    with torch.no_grad():
        _logits(framework, teacher=True)[3:5] = -3.0
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    sure = 1 / (1 + np.exp(-_logits(framework, teacher=True)[ROWS].detach().double().numpy())) >= 0.7
    np.testing.assert_array_equal(output.pseudo.mask.numpy(), sure)
    accepted = sure.any((1, 2))
    assert output.pseudo.accepted.tolist() == accepted.tolist()
    assert accepted.tolist()[:2] == [False, False]
    assert accepted.any()
    p = 1 / (1 + np.exp(-_logits(framework, teacher=False)[ROWS].detach().double().numpy()))
    loss = -(sure * np.log(p) + ~sure * np.log(1 - p)).mean((1, 2)) * accepted
    parts = {name: float(part) for name, part in output.loss.parts.items()}
    assert parts["unlabeled"] == pytest.approx(loss.mean(), rel=1e-5)
    expected = parts["supervised"] + 0.25 * parts["contrastive"] + 0.5 * parts["unlabeled"]
    assert float(output.loss.total.detach()) == pytest.approx(expected, rel=1e-6)


def test_a_teacher_that_is_never_sure_teaches_nothing(tables: MakeTables, table_batch: SemiBatch) -> None:
    """δ above every confidence: no clip accepted, no gradient on the unlabeled rows."""
    framework = MeanTeacher(tables(4), MeanTeacherConfig(delta=1.0, warmup_steps=0, contrastive_weight=0))
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    assert not output.pseudo.accepted.any()
    assert float(output.loss.parts["unlabeled"]) == 0
    (gradient,) = torch.autograd.grad(output.loss.total, framework.student.get_parameter("model.logits"))
    assert gradient[ROWS].abs().max() == 0
    assert gradient[:3].abs().max() > 0


def test_the_teacher_is_the_students_average(tables: MakeTables) -> None:
    """A copy until the warm-up ends, then θ ← β θ + (1 − β) θ_student; the evaluated model is the teacher."""
    framework = MeanTeacher(tables(4), MeanTeacherConfig(ema_decay=0.9, warmup_steps=2))
    expected = _logits(framework, teacher=True).detach().double().numpy()
    np.testing.assert_allclose(expected, _logits(framework, teacher=False).detach().numpy())
    for step in range(5):
        with torch.no_grad():
            _logits(framework, teacher=False).mul_(1.5)
        framework.after_step(step)
        student = _logits(framework, teacher=False).detach().double().numpy()
        expected = student if step < 2 else 0.9 * expected + 0.1 * student
        np.testing.assert_allclose(_logits(framework, teacher=True).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    (model,) = framework.eval_models()
    assert model is framework.teacher.model
