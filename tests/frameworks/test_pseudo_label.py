"""Pseudo-labeling on tables whose every answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from avsl.frameworks.branch import Branch
from avsl.frameworks.mean_teacher import MeanTeacher, MeanTeacherConfig
from avsl.frameworks.pseudo_label import PseudoLabel, PseudoLabelConfig
from avsl.types import SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]
ROWS = slice(3, 8)  # the unlabeled rows of table_batch


def test_the_student_learns_what_it_is_sure_of(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Y = 1[P ≥ δ] of itself; a clip without a sure cell counts 0; no gradient goes into Y."""
    config = PseudoLabelConfig(delta=0.7, warmup_steps=0, contrastive_weight=0, unlabeled_weight=0.5)
    framework = PseudoLabel(tables(4), config)
    logits = framework.student.get_parameter("model.logits")
    with torch.no_grad():
        logits[3:5] = -3.0
    output = framework.training_step(table_batch, 0)
    assert output.pseudo is not None
    p = 1 / (1 + np.exp(-logits[ROWS].detach().double().numpy()))
    sure = p >= 0.7
    accepted = sure.any((1, 2))
    np.testing.assert_array_equal(output.pseudo.mask.numpy(), sure)
    assert output.pseudo.accepted.tolist() == accepted.tolist() == [False, False, True, True, True]
    expected = -(sure * np.log(p) + ~sure * np.log(1 - p)).mean((1, 2)) * accepted
    assert float(output.loss.parts["unlabeled"]) == pytest.approx(expected.mean(), rel=1e-5)
    (gradient,) = torch.autograd.grad(output.loss.total, logits)
    np.testing.assert_allclose(
        gradient[ROWS].numpy(), 0.5 * (p - sure) * accepted[:, None, None] / (5 * 16), rtol=1e-4, atol=1e-8
    )
    (model,) = framework.eval_models()
    assert model is framework.student.model


def test_it_is_a_mean_teacher_without_memory(tables: MakeTables, table_batch: SemiBatch) -> None:
    """With β = 0 the mean teacher, a copy of its student, takes the same step."""
    settings = {"delta": 0.6, "warmup_steps": 0, "contrastive_weight": 0.3}
    single = PseudoLabel(tables(4), PseudoLabelConfig(**settings)).training_step(table_batch, 0).loss
    teacher = MeanTeacher(tables(4), MeanTeacherConfig(**settings, ema_decay=0)).training_step(table_batch, 0).loss
    assert torch.equal(single.total, teacher.total)
