"""The optimizer: learning rates, weight decay and the clipping of gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.fixtures.trainings import Fit, weights_of

from avsl.training.optimizer import learning_rate_factor


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    """Linear over the warm-up; half the peak in the middle of what follows."""
    assert [learning_rate_factor(step, 4, 104) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_factor(54, 4, 104) == pytest.approx(0.5)
    after = [learning_rate_factor(step, 4, 104) for step in range(4, 105)]
    assert after == sorted(after, reverse=True)
    assert after[-1] == 0
    assert learning_rate_factor(0, 1, 1) == 1


def test_the_learning_rate_rises_and_falls_as_a_cosine(fit: Fit) -> None:
    """By the step, from a linear warm-up to the share of the peak that is left at the end."""
    steps = fit("framework=supervised", "trainer.warmup_share=0.34", "trainer.learning_rate=0.01", epochs=2)
    final = steps.module.config.trainer.final_lr_share
    cosine = [final + (1 - final) * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert steps.rates == pytest.approx([0.005, 0.01, *(0.01 * factor for factor in cosine)])


def test_an_objectives_own_parameters_learn_at_their_own_rate(fit: Fit) -> None:
    """Adam's first step moves a parameter by its learning rate, and SSPL's head learns faster than the network."""
    own = ["trainer.learning_rate=0.001", "trainer.weight_decay=0", "trainer.warmup_share=0", "trainer.gradient_clip=0"]
    steps = fit("framework=self_supervised", "objective=sspl", "objective.sspl.lr_scale=4", *own)
    before, after = steps.states[:2]
    moved = {name: float((after[name] - before[name]).abs().max()) for name in weights_of(steps.module)}
    (student,) = steps.students
    head = {name for name in moved if name.startswith(f"{student}.objective.")}
    assert max(moved[name] for name in head) == pytest.approx(0.004, rel=0.05)
    assert max(moved[name] for name in moved.keys() - head) == pytest.approx(0.001, rel=0.05)


def test_matrices_decay_and_vectors_do_not(fit: Fit) -> None:
    """The first step with decay and without it differ by η · decay · θ."""
    asked = ["framework=supervised", "trainer.learning_rate=0.01", "trainer.warmup_share=0"]
    plain, decayed = (fit(*asked, f"trainer.weight_decay={decay}") for decay in (0, 0.5))
    start = plain.states[0]
    for name, parameter in plain.module.named_parameters():
        if not parameter.requires_grad:
            continue
        lost = plain.states[1][name] - decayed.states[1][name]
        expected = 0.01 * 0.5 * start[name] if sum(n > 1 for n in parameter.shape) > 1 else 0 * start[name]
        torch.testing.assert_close(lost, expected, atol=1e-6, rtol=1e-3)


def test_gradients_are_clipped(fit: Fit) -> None:
    """Each student's to the norm that is asked for, where it is larger; 0 leaves it alone."""
    free, clipped = (fit("framework=dmt", f"trainer.gradient_clip={norm}") for norm in (0, 0.01))
    assert min(itertools.chain(*free.norms)) > 0.02
    assert list(itertools.chain(*clipped.norms)) == pytest.approx([0.01] * 6, rel=1e-3)


def test_trunks_learn_at_their_own_rate(fit: Fit) -> None:
    """Adam's first step moves a parameter by its learning rate; what is logged is that of the other layers."""
    own = ["trainer.learning_rate=0.001", "trainer.weight_decay=0", "trainer.warmup_share=0", "trainer.gradient_clip=0"]
    steps = fit("framework=supervised", "trainer.trunk_lr_scale=0.1", *own)
    before, after = steps.states[:2]
    moved = {name: float((after[name] - before[name]).abs().max()) for name in weights_of(steps.module)}
    trunk = {name for name in moved if "backbone" in name}
    assert max(moved[name] for name in trunk) == pytest.approx(1e-4, rel=0.01)
    assert max(moved[name] for name in moved.keys() - trunk) == pytest.approx(1e-3, rel=0.01)
    assert steps.rates[0] == pytest.approx(1e-3)
