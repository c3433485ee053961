"""What every framework promises, with every objective: registered is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn

from avsl.frameworks import FRAMEWORKS, Branch
from avsl.frameworks.branch import Teacher, is_matrix
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives import OBJECTIVES
from avsl.types import AVBatch, Framework, SemiBatch, Views

LABELLED, UNLABELLED = 3, 4
LATE = 10**6  # a step after any warm-up
LABELLERS = ["dmt", "mean_teacher"]


class MakeView(Protocol):
    """Draws a view of some rows (tests/conftest.py)."""

    def __call__(self, rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        """The view."""
        ...


class Make(Protocol):
    """Builds a framework over tiny localisers."""

    def __call__(self, *, seed: int = 0, **settings: Any) -> Framework:
        """With ``settings`` in place of the defaults."""
        ...


@pytest.fixture(params=sorted(FRAMEWORKS))
def framework_name(request: pytest.FixtureRequest) -> str:
    """Every registered framework."""
    return str(request.param)


@pytest.fixture(params=sorted(OBJECTIVES))
def make(request: pytest.FixtureRequest, framework_name: str, tiny: LocalizerConfig) -> Make:
    """The framework with every registered objective."""
    objective, objective_config = OBJECTIVES[request.param]
    framework, config = FRAMEWORKS[framework_name]

    def build(*, seed: int = 0, **settings: Any) -> Framework:
        def branch(k: int) -> Branch:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(100 * seed + k)
                return Branch(Localizer(tiny), objective(objective_config()))

        return framework(branch, config.read(settings, "framework"))

    return build


@pytest.fixture
def batch(make: Make, make_view: MakeView) -> SemiBatch:
    """Labelled and unlabelled rows in as many strong views as are asked for, with a weak one."""
    n_views = make().n_views
    return SemiBatch(
        labelled=Views(tuple(make_view(LABELLED, v, mask=True) for v in range(n_views))),
        unlabelled=Views(tuple(make_view(UNLABELLED, 10 + v) for v in range(n_views)), weak=make_view(UNLABELLED, 20)),
    )


def module(framework: Framework) -> nn.Module:
    """The framework as what it is to Lightning."""
    assert isinstance(framework, nn.Module)
    return framework


def trained(framework: Framework) -> dict[str, Tensor]:
    """What the optimiser is given, by name."""
    ids = {id(p) for group in framework.param_groups() for p in group["params"]}
    return {name: p for name, p in module(framework).named_parameters() if id(p) in ids}


def gradients(framework: Framework, batch: SemiBatch, step: int) -> dict[str, Tensor]:
    """Every trained parameter's gradient of one step; 0 where there is none."""
    parameters = trained(framework)
    total = framework.training_step(batch, step).loss.total
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), found, strict=True)
    }


def convince_labellers(framework: Framework) -> None:
    """Make every network that is not trained call the whole frame sounding."""
    trained_ids = {id(p) for p in trained(framework).values()}
    convinced = 0
    for part in module(framework).modules():
        if isinstance(part, Localizer) and id(part.offset) not in trained_ids:
            nn.init.constant_(part.offset, 30.0)
            convinced += 1
    assert convinced


def labels(framework: Framework) -> None:
    """Leave the test to frameworks that label."""
    if not framework.needs_weak_view:
        pytest.skip("this framework gives no pseudo-labels")


def test_the_loss_is_finite_and_reaches_every_trained_parameter(make: Make, batch: SemiBatch) -> None:
    """Before and after the warm-up, and no part of a student is left out."""
    framework = make()
    for step in (0, LATE):
        terms = framework.training_step(batch, step).loss
        assert torch.isfinite(terms.total)
        assert all(torch.isfinite(part) and not part.requires_grad for part in terms.parts.values())
    for name, gradient in gradients(framework, batch, LATE).items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


def test_the_optimiser_gets_each_parameter_once_and_teachers_never(make: Make, batch: SemiBatch) -> None:
    """What is not trained asks for no gradient, gets none, and is in no group; biases and norms do not decay."""
    framework = make()
    groups = [dict(group) for group in framework.param_groups()]
    given = [id(p) for group in groups for p in group["params"]]
    assert len(given) == len(set(given))
    framework.training_step(batch, LATE).loss.total.backward()  # type: ignore[no-untyped-call]  # torch's own
    students = {id(p) for part in module(framework).modules() if isinstance(part, Branch) for p in part.parameters()}
    for name, p in module(framework).named_parameters():
        if id(p) in given:
            assert p.requires_grad, name
            assert id(p) in students, name
        else:
            assert not p.requires_grad, name
            assert p.grad is None, name
    for group in groups:
        assert all(is_matrix(p) == ("weight_decay" not in group) for p in group["params"])


def test_pseudo_labels_give_every_student_a_gradient(make: Make, batch: SemiBatch) -> None:
    """Where the labellers agree on a mask that is not empty, its loss is there and each student learns from it."""
    framework = make()
    labels(framework)
    without = make(unlabelled_weight=0.0)
    for one in (framework, without):
        convince_labellers(one)
    step = framework.training_step(batch, LATE)
    assert step.pseudo is not None
    assert step.pseudo.accepted.all()
    assert step.pseudo.mask.min() == 1
    parts = {name: part for name, part in step.loss.parts.items() if name.startswith("unlabelled")}
    assert parts
    assert all(part > 0.1 for part in parts.values())
    with_labels, plain = gradients(framework, batch, LATE), gradients(without, batch, LATE)
    students = {name: part for name, part in module(framework).named_modules() if isinstance(part, Branch)}
    for student in students:
        for encoder in ("model.image.", "model.audio.", "model.offset"):
            changes = [
                float((with_labels[name] - plain[name]).abs().max())
                for name in plain
                if name.startswith(f"{student}.{encoder}")
            ]
            assert changes
            assert max(changes) > 1e-4, (student, encoder)


def test_unlabelled_rows_keep_their_secret(make: Make, batch: SemiBatch) -> None:
    """Masks that reach a framework with unlabelled rows change neither its loss nor its gradient."""
    framework = make()
    if framework.needs_weak_view:
        convince_labellers(framework)
    assert batch.unlabelled is not None
    assert batch.unlabelled.weak is not None
    poison = torch.rand(UNLABELLED, 32, 32, generator=torch.Generator().manual_seed(0))
    poisoned = replace(
        batch,
        unlabelled=Views(
            tuple(replace(view, mask=poison) for view in batch.unlabelled.strong),
            weak=replace(batch.unlabelled.weak, mask=1 - poison),
        ),
    )
    clean, dirty = framework.training_step(batch, LATE).loss, framework.training_step(poisoned, LATE).loss
    assert torch.equal(clean.total, dirty.total)
    assert {n: float(p) for n, p in clean.parts.items()} == {n: float(p) for n, p in dirty.parts.items()}
    before, after = gradients(framework, batch, LATE), gradients(framework, poisoned, LATE)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_labels_reach_the_loss(make: Make, batch: SemiBatch) -> None:
    """Other boxes on the labelled rows give another loss and another gradient; no boxes are an error."""
    framework = make()
    strong = batch.labelled.strong
    other = replace(batch, labelled=Views(tuple(replace(v, mask=1 - v.mask) for v in strong if v.mask is not None)))
    for step in (0, LATE):
        difference = framework.training_step(batch, step).loss.total - framework.training_step(other, step).loss.total
        assert difference.abs() > 1e-2
    before, after = gradients(framework, batch, 0), gradients(framework, other, 0)
    assert any(not torch.allclose(before[name], after[name]) for name in before)
    bare = replace(batch, labelled=Views(tuple(replace(v, mask=None) for v in strong)))
    with pytest.raises(ValueError, match="no masks"):
        framework.training_step(bare, 0)


def test_before_the_warm_up_ends_nothing_is_labelled(make: Make, batch: SemiBatch) -> None:
    """No pseudo-labels and no loss on them at the last warm-up step; both at the next."""
    labels(make())
    framework = make(warmup_steps=5)
    convince_labellers(framework)
    early, late = framework.training_step(batch, 4), framework.training_step(batch, 5)
    assert early.pseudo is None
    assert not [name for name in early.loss.parts if name.startswith("unlabelled")]
    assert late.pseudo is not None
    assert [name for name in late.loss.parts if name.startswith("unlabelled")]


def test_all_rows_may_be_labelled(make: Make, batch: SemiBatch) -> None:
    """At 100 % labels there are no unlabelled rows, and training goes on."""
    framework = make()
    output = framework.training_step(SemiBatch(batch.labelled), LATE)
    assert torch.isfinite(output.loss.total)
    assert output.pseudo is None
    assert not [name for name in output.loss.parts if name.startswith("unlabelled")]


def test_a_missing_weak_view_is_an_error(make: Make, batch: SemiBatch) -> None:
    """A labeller is not shown the strong view in its place."""
    labels(make())
    assert batch.unlabelled is not None
    with pytest.raises(ValueError, match="no weak view"):
        make().training_step(replace(batch, unlabelled=replace(batch.unlabelled, weak=None)), LATE)


def test_what_labels_does_not_depend_on_the_training_mode(make: Make, batch: SemiBatch) -> None:
    """Teachers stay in evaluation mode under ``train()``; a step leaves their weights and statistics alone."""
    framework = make()
    labels(framework)
    module(framework).train()
    teachers = [part for part in module(framework).modules() if isinstance(part, Teacher)]
    assert teachers
    assert not any(part.training for teacher in teachers for part in teacher.model.modules())
    before = [tensor.clone() for teacher in teachers for tensor in teacher.state_dict().values()]
    framework.training_step(batch, LATE)
    after = [tensor for teacher in teachers for tensor in teacher.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_evaluated_stands_alone(make: Make, batch: SemiBatch, tiny: LocalizerConfig) -> None:
    """Each evaluated model's state is exactly a localiser's: no objective, no student, no optimiser."""
    framework = make()
    models = framework.eval_models()
    assert models
    view = batch.labelled.strong[0]
    for model in models:
        alone = Localizer(tiny).eval()
        state: Mapping[str, Tensor] = model.state_dict()
        alone.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(alone(view).confidence, model.eval()(view).confidence)


def test_the_state_holds_all_that_goes_on(make: Make, batch: SemiBatch) -> None:
    """A state loaded into a framework of another seed gives the same losses and the same evaluated maps."""
    first, second = make(), make(seed=1)
    if first.needs_weak_view:
        convince_labellers(first)
    assert not torch.equal(first.training_step(batch, LATE).loss.total, second.training_step(batch, LATE).loss.total)
    module(second).load_state_dict(module(first).state_dict())
    assert torch.equal(first.training_step(batch, LATE).loss.total, second.training_step(batch, LATE).loss.total)
    view = batch.labelled.strong[0]
    with torch.no_grad():
        for one, other in zip(first.eval_models(), second.eval_models(), strict=True):
            assert torch.equal(one.eval()(view).logits, other.eval()(view).logits)


def test_students_start_differently(make: Make) -> None:
    """Where there are several, no two have the same weights."""
    framework = make()
    students = [part for part in module(framework).modules() if isinstance(part, Branch)]
    weights = [torch.cat([p.flatten() for p in student.parameters()]) for student in students]
    for k, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[k + 1 :])


def test_steps_lower_the_loss(make: Make, batch: SemiBatch) -> None:
    """A few optimiser steps on one batch, each followed by what the framework does after it, learn it."""
    framework = make()
    optimiser = torch.optim.AdamW([dict(group) for group in framework.param_groups()], lr=3e-3)
    losses = []
    for step in range(12):
        total = framework.training_step(batch, step).loss.total
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
        framework.after_step(step)
        losses.append(float(total.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_the_teachers_are_not_left_out(make: Make, framework_name: str) -> None:
    """The tests that leave out frameworks without labellers do not leave out these."""
    assert make().needs_weak_view or framework_name not in LABELLERS
