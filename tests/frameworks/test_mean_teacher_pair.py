"""The pair is two mean teachers, each the same as if it were trained alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from avsl.frameworks.branch import Branch
from avsl.frameworks.mean_teacher import MeanTeacher, MeanTeacherConfig
from avsl.frameworks.mean_teacher_pair import MeanTeacherPair, MeanTeacherPairConfig
from avsl.types import Framework, SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]


def _other(make: Callable[[int], Branch], k: int, _: int) -> Branch:
    """The k-th student, for a framework that asks for the first."""
    return make(k)


def test_a_pair_is_two_mean_teachers_trained_alone(tables: MakeTables, table_batch: SemiBatch) -> None:
    """The loss is the sum of the two losses; each student and teacher is updated as in a single mean teacher."""
    settings = {"delta": 0.6, "warmup_steps": 0, "ema_decay": 0.9, "contrastive_weight": 0.25, "unlabeled_weight": 0.5}
    make = tables(4, 8)
    pair = MeanTeacherPair(make, MeanTeacherPairConfig(**settings))
    alone = [MeanTeacher(partial(_other, make, k), MeanTeacherConfig(**settings)) for k in (0, 1)]
    output = pair.training_step(table_batch, 0)
    outputs = [framework.training_step(table_batch, 0) for framework in alone]
    losses = [of.loss.total.detach() for of in outputs]
    assert losses[0] != losses[1]
    torch.testing.assert_close(output.loss.total.detach(), losses[0] + losses[1])
    torch.testing.assert_close(output.loss.parts["unlabeled_b"], outputs[1].loss.parts["unlabeled"])
    frameworks: list[Framework] = [pair, *alone]
    for framework, loss in zip(frameworks, (output.loss, *(of.loss for of in outputs)), strict=True):
        parameters = [parameter for group in framework.param_groups() for parameter in group["params"]]
        gradients = torch.autograd.grad(loss.total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= gradient
        framework.after_step(0)
    for model, framework in zip(pair.eval_models(), frameworks[1:], strict=True):
        torch.testing.assert_close(model.state_dict(), framework.eval_models()[0].state_dict())
