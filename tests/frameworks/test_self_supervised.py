"""Self-supervised learning: the objective, all of it and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from avsl.frameworks.branch import Branch
from avsl.frameworks.self_supervised import SelfSupervised, SelfSupervisedConfig
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.types import SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]


def test_the_loss_is_the_objective_on_all_rows(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Labeled and unlabeled rows together, in whichever part of the batch they come."""
    framework = SelfSupervised(tables(4), SelfSupervisedConfig())
    everything = replace(table_batch.labeled.strong[0], index=torch.arange(8), mask=None)
    expected = framework.student.contrastive(framework.student([everything]), 0).total
    loss = framework.training_step(table_batch, 0).loss
    assert set(loss.parts) == {"contrastive"}
    torch.testing.assert_close(loss.total, expected)
    one_part = replace(everything, frame=torch.zeros(8, 3, 8, 8), geometry=torch.eye(2, 3).expand(8, 2, 3))
    alone = framework.training_step(SemiBatch(replace(table_batch.labeled, strong=(one_part,))), 0).loss
    torch.testing.assert_close(alone.total, expected)
    (model,) = framework.eval_models()
    assert model is framework.student.model


def test_what_only_labels_can_teach_stays(tiny: LocalizerConfig) -> None:
    """The confidence's scale and offset are trained by no group."""
    model = Localizer(tiny)
    framework = SelfSupervised(lambda _: Branch(model, EZVSL(EZVSLConfig())), SelfSupervisedConfig())
    given = {id(p) for group in framework.param_groups() for p in group["params"]}
    left = {name for name, p in model.named_parameters() if id(p) not in given}
    assert left == {"log_scale", "offset"}
    assert not any(p.requires_grad for p in model.calibration())
