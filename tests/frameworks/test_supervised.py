"""Supervised learning on tables whose every answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from avsl.frameworks.branch import Branch
from avsl.frameworks.supervised import Supervised, SupervisedConfig
from avsl.types import SemiBatch

MakeTables = Callable[..., Callable[[int], Branch]]


def test_without_the_objective_unlabeled_rows_are_not_used(tables: MakeTables, table_batch: SemiBatch) -> None:
    """At weight 0 it asks for none; where some come anyway, loss and gradient are those of the labels alone."""
    framework = Supervised(tables(4), SupervisedConfig(contrastive_weight=0))
    assert not framework.uses_unlabeled
    assert Supervised(tables(4), SupervisedConfig(contrastive_weight=0.1)).uses_unlabeled
    both, alone = (framework.training_step(b, 0).loss for b in (table_batch, SemiBatch(table_batch.labeled)))
    assert set(both.parts) == {"supervised"}
    torch.testing.assert_close(both.total, alone.total)
    (gradient,) = torch.autograd.grad(both.total, framework.student.get_parameter("model.logits"))
    assert gradient[3:].abs().max() == 0
    assert gradient[:3].abs().min() > 0


def test_the_loss_is_the_mean_over_labeled_rows_of_their_cross_entropy(
    tables: MakeTables, table_batch: SemiBatch
) -> None:
    """H(G, P) with the box mask averaged to the map's grid, written out."""
    framework = Supervised(tables(4), SupervisedConfig(contrastive_weight=0))
    mask = table_batch.labeled.strong[0].mask
    assert mask is not None
    grid = mask.double().numpy().reshape(3, 4, 2, 4, 2).mean((2, 4))
    p = 1 / (1 + np.exp(-framework.student.get_parameter("model.logits")[:3].detach().double().numpy()))
    expected = -(grid * np.log(p) + (1 - grid) * np.log(1 - p)).mean()
    assert float(framework.training_step(table_batch, 0).loss.total) == pytest.approx(expected, rel=1e-5)


def test_the_objective_sees_all_rows(tables: MakeTables, table_batch: SemiBatch) -> None:
    """Its term is the objective's loss of labeled and unlabeled rows together, at its weight."""
    framework = Supervised(tables(4), SupervisedConfig(contrastive_weight=0.5))
    loss = framework.training_step(table_batch, 0).loss
    everything = replace(table_batch.labeled.strong[0], index=torch.arange(8))
    expected = framework.student.contrastive(framework.student([everything]), 0).total
    torch.testing.assert_close(loss.parts["contrastive"], expected.detach())
    torch.testing.assert_close(loss.total, loss.parts["supervised"] + 0.5 * expected)
    labeled_alone = framework.training_step(SemiBatch(table_batch.labeled), 0).loss
    assert (labeled_alone.parts["contrastive"] - loss.parts["contrastive"]).abs() > 1e-3
    (model,) = framework.eval_models()
    assert model is framework.student.model
