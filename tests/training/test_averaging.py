"""Averages that are exported in place of the trained networks, for every framework alike."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.fixtures.trainings import Fit, under, weights_of

from avsl.frameworks import FRAMEWORKS

AVERAGING = {"mean_teacher", "mean_teacher_pair", "dmt"}


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS.keys() - AVERAGING))
def test_students_are_exported_as_their_averages(framework: str, fit: Fit) -> None:
    """θ_e ← β θ_e + (1 − β) θ after each step, with a half-life of two steps; statistics are the student's."""
    steps = fit(f"framework={framework}", "trainer.average_half_life=2")
    decay = 0.5**0.5
    for k, student in enumerate(steps.students):
        weights = weights_of(steps.module.get_submodule(f"{student}.model"))
        for before, after in itertools.pairwise(steps.states):
            old, trained = under(before, f"exported.averages.{k}."), under(after, f"{student}.model.")
            for name, found in under(after, f"exported.averages.{k}.").items():
                expected = decay * old[name] + (1 - decay) * trained[name] if name in weights else trained[name]
                torch.testing.assert_close(found, expected)
            assert any(not torch.equal(after[f"exported.averages.{k}.{name}"], trained[name]) for name in weights)
    members = list(steps.module.ensemble().members)
    assert [id(member) for member in members] == [id(average) for average in steps.module.exported.averages]
    steps.module.train()
    assert not any(part.training for member in members for part in member.modules())


@pytest.mark.parametrize("framework", sorted(AVERAGING))
def test_teachers_are_exported_as_they_are(framework: str, fit: Fit) -> None:
    """An average of an average would have a longer half-life than the one asked for."""
    module = fit(f"framework={framework}").module
    assert not module.exported.averages
    assert list(map(id, module.ensemble().members)) == list(map(id, module.framework.eval_models()))


@pytest.mark.parametrize(
    "asked", [["trainer.average_half_life=0"], ["objective=slavc", "objective.slavc.momentum_inference=true"]]
)
def test_last_weights_and_momentum_encoders_are_exported_as_they_are(asked: list[str], fit: Fit) -> None:
    """Without a half-life the student, and with SLAVC's option its momentum encoder."""
    module = fit("framework=supervised", *asked).module
    assert not module.exported.averages
    assert list(map(id, module.ensemble().members)) == list(map(id, module.framework.eval_models()))
