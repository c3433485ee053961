"""What every framework promises, with every objective: registered is tested."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytest
import torch
from tests.fixtures.messages import facts
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.branch import Branch, Teacher, is_matrix
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives import OBJECTIVES
from avsl.types import AVBatch, Framework, KeepsLabels, SemiBatch, StepOutput, Views

LABELED, UNLABELED = 3, 4
LATE = 10**6  # a step after any warm-up
SURE = math.log(0.6 / 0.4)  # the logit from which a cell is called sounding, δ = 0.6


class MakeView(Protocol):
    """Draws a view of some rows (tests/conftest.py)."""

    def __call__(self, rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        """The view."""
        ...


class Make(Protocol):
    """Builds a framework over tiny localizers."""

    def __call__(self, *, seed: int = 0, **settings: Any) -> Framework:
        """With ``settings`` in place of the defaults; equal arguments, equal weights."""
        ...


@pytest.fixture(params=sorted(FRAMEWORKS))
def framework_name(request: pytest.FixtureRequest) -> str:
    """Every registered framework."""
    return str(request.param)


@pytest.fixture(
    params=[
        name if name == "ezvsl" else pytest.param(name, marks=pytest.mark.slow)  # one objective in `make test-fast`
        for name in sorted(OBJECTIVES)
    ]
)
def objective_name(request: pytest.FixtureRequest) -> str:
    """Every registered objective."""
    return str(request.param)


@pytest.fixture
def described(objective_name: str, tiny: LocalizerConfig) -> LocalizerConfig:
    """The tiny localizer with as many heads as the objective needs."""
    return tiny.model_copy(update={"heads": objective(objective_name, tiny).needs.heads})


@pytest.fixture
def make(objective_name: str, framework_name: str, described: LocalizerConfig) -> Make:
    """The framework with the objective."""
    framework, config = FRAMEWORKS[framework_name]

    def build(*, seed: int = 0, **settings: Any) -> Framework:
        def branch(k: int) -> Branch:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(100 * seed + k)
                return Branch(Localizer(described), objective(objective_name, described))

        return framework(branch, config.read(settings, "framework"))

    return build


@pytest.fixture
def batch(make: Make, make_view: MakeView) -> SemiBatch:
    """Labeled and unlabeled rows in as many strong views as are asked for, with a weak one."""
    n_views = make().n_views
    rows = make_view(UNLABELED, 20).index + LABELED
    unlabeled = [replace(make_view(UNLABELED, 10 + v), index=rows) for v in range(n_views)]
    return SemiBatch(
        labeled=Views(tuple(make_view(LABELED, v, mask=True) for v in range(n_views))),
        unlabeled=Views(tuple(unlabeled), weak=replace(make_view(UNLABELED, 20), index=rows)),
    )


def objective(name: str, model: LocalizerConfig) -> Any:
    """A registered objective with its defaults, for the tiny model's width."""
    build, config = OBJECTIVES[name]
    return build(config.read({"dim": model.dim} if "dim" in config.model_fields else {}, f"objective.{name}"))


def module(framework: Framework) -> nn.Module:
    """The framework as what it is to Lightning."""
    assert isinstance(framework, nn.Module)
    return framework


def trained(framework: Framework) -> dict[str, Tensor]:
    """What the optimizer is given, by name."""
    ids = {id(p) for group in framework.param_groups() for p in group["params"]}
    return {name: p for name, p in module(framework).named_parameters() if id(p) in ids}


def take(framework: Framework, batch: SemiBatch, step: int = LATE) -> tuple[StepOutput, dict[str, Tensor]]:
    """One step's output and every trained parameter's gradient; 0 where there is none."""
    output, parameters = framework.training_step(batch, step), trained(framework)
    found = torch.autograd.grad(output.loss.total, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), found, strict=True)
    return output, {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def calibrate(framework: Framework, scale: float, offset: float) -> None:
    """Give every network of a framework the same P = sigmoid(scale · S + offset)."""
    found = [part for part in module(framework).modules() if isinstance(part, Localizer)]
    assert found
    for part in found:
        nn.init.constant_(part.log_scale, math.log(scale))
        nn.init.constant_(part.offset, offset)


def convince(framework: Framework) -> None:
    """Make every network call the whole frame sounding, none of them without a doubt."""
    calibrate(framework, scale=0.5, offset=1.5)


def divide(framework: Framework, view: AVBatch) -> None:
    """Make every network sure of half of the cells of a view's first two rows, by their similarity."""
    calibrate(framework, scale=10.0, offset=0.0)
    for part in module(framework).modules():
        if isinstance(part, Localizer):
            mode = part.training
            with torch.no_grad():
                median = part.eval()(view).logits[:2].quantile(0.5)
            part.train(mode)
            nn.init.constant_(part.offset, SURE - float(median))


def labels(framework: Framework) -> None:
    """Leave the test to frameworks that label."""
    if not framework.needs_weak_view:
        pytest.skip("this framework gives no pseudo-labels")


def unlabeled_parts(output: StepOutput) -> list[float]:
    """The loss on pseudo-labels, by student."""
    return [float(part) for name, part in output.loss.parts.items() if name.startswith("unlabeled")]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_is_finite_and_reaches_every_trained_parameter(make: Make, batch: SemiBatch, precision: str) -> None:
    """Before and after the warm-up, and no part of a student is left out: not by a pass without a gradient either."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        early = make().training_step(batch, 0)
        late, gradients = take(make(), batch)
    for output in (early, late):
        assert torch.isfinite(output.loss.total)
        assert all(torch.isfinite(part) and not part.requires_grad for part in output.loss.parts.values())
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


def test_half_precision_ends_where_the_objective_begins(
    objective_name: str, described: LocalizerConfig, make_view: MakeView
) -> None:
    """Under autocast an objective makes of the same outputs what it makes of them without: its cosines keep digits."""
    branch = Branch(Localizer(described), objective(objective_name, described))
    outputs = branch([make_view(6, seed) for seed in range(branch.needs.views)])
    expected = branch.contrastive(outputs, LATE).total
    with torch.autocast("cpu", torch.bfloat16):
        found = branch.contrastive(outputs, LATE).total
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_optimizer_gets_each_parameter_once_and_teachers_never(make: Make, batch: SemiBatch) -> None:
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
    """Where the labelers agree on a mask that is not empty, its loss is there and each student learns from it."""
    framework = make()
    labels(framework)
    without = make(unlabeled_weight=0.0)
    for one in (framework, without):
        convince(one)
    output, with_labels = take(framework, batch)
    _, plain = take(without, batch)
    assert output.pseudo is not None
    assert output.pseudo.accepted.all()
    assert output.pseudo.mask.min() > 0.8
    assert unlabeled_parts(output)
    assert min(unlabeled_parts(output)) > 0.1
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


def test_unlabeled_rows_keep_their_secret(make: Make, batch: SemiBatch) -> None:
    """Masks that reach a framework with unlabeled rows change neither its loss nor its gradient."""
    clean, dirty = make(), make()
    for framework in (clean, dirty):
        convince(framework)
    assert batch.unlabeled is not None
    assert batch.unlabeled.weak is not None
    poison = torch.rand(UNLABELED, 32, 32, generator=torch.Generator().manual_seed(0))
    poisoned = replace(
        batch,
        unlabeled=Views(
            tuple(replace(view, mask=poison) for view in batch.unlabeled.strong),
            weak=replace(batch.unlabeled.weak, mask=1 - poison),
        ),
    )
    (expected, before), (found, after) = take(clean, batch), take(dirty, poisoned)
    assert torch.equal(expected.loss.total, found.loss.total)
    assert {n: float(p) for n, p in expected.loss.parts.items()} == {n: float(p) for n, p in found.loss.parts.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_labels_reach_the_loss_where_they_are_used(make: Make, batch: SemiBatch) -> None:
    """Other boxes on the labeled rows give another loss and another gradient, and no boxes are an error.

    Where labels are not used, neither makes a difference.
    """
    strong = batch.labeled.strong
    other = replace(batch, labeled=Views(tuple(replace(v, mask=1 - v.mask) for v in strong if v.mask is not None)))
    bare = replace(batch, labeled=Views(tuple(replace(v, mask=None) for v in strong)))
    for step in (0, LATE):
        (expected, before), (found, after) = take(make(), batch, step), take(make(), other, step)
        if not make().uses_labels:
            assert torch.equal(expected.loss.total, found.loss.total)
            assert all(torch.equal(before[name], after[name]) for name in before)
            assert torch.equal(expected.loss.total, make().training_step(bare, step).loss.total)
            continue
        assert (expected.loss.total - found.loss.total).abs() > 1e-2
        assert any(not torch.allclose(before[name], after[name]) for name in before)
        with pytest.raises(ValueError, match=facts("labeled masks")):
            make().training_step(bare, step)


def test_before_the_warm_up_ends_nothing_is_labeled(make: Make, batch: SemiBatch) -> None:
    """No pseudo-labels and no loss on them at the last warm-up step; both at the next."""
    labels(make())
    framework = make(warmup_steps=5)
    convince(framework)
    early, late = framework.training_step(batch, 4), framework.training_step(batch, 5)
    assert early.pseudo is None
    assert not unlabeled_parts(early)
    assert late.pseudo is not None
    assert unlabeled_parts(late)


def test_all_rows_may_be_labeled(make: Make, batch: SemiBatch) -> None:
    """At 100 % labels there are no unlabeled rows, and training goes on."""
    output = make().training_step(SemiBatch(batch.labeled), LATE)
    assert torch.isfinite(output.loss.total)
    assert output.pseudo is None
    assert not unlabeled_parts(output)


def test_a_missing_weak_view_is_an_error(make: Make, batch: SemiBatch) -> None:
    """A labeler is not shown the strong view in its place."""
    labels(make())
    assert batch.unlabeled is not None
    with pytest.raises(ValueError, match=facts("weak")):
        make().training_step(replace(batch, unlabeled=replace(batch.unlabeled, weak=None)), LATE)


def test_a_label_depends_on_its_row_alone(make: Make, batch: SemiBatch) -> None:
    """Whoever labels is in evaluation mode then, and in the mode in which it was afterwards."""
    framework, fewer = make(), make()
    labels(framework)
    assert batch.unlabeled is not None
    assert batch.unlabeled.weak is not None
    for one in (framework, fewer):
        divide(one, batch.unlabeled.weak)
    modes = [part.training for part in module(framework).modules()]

    def first(view: AVBatch) -> AVBatch:
        features = {key: value[:2] for key, value in view.features.items()}
        return AVBatch(view.frame[:2], None, features, view.index[:2], view.geometry[:2])

    few = Views(tuple(first(view) for view in batch.unlabeled.strong), weak=first(batch.unlabeled.weak))
    whole, part = framework.training_step(batch, LATE).pseudo, fewer.training_step(replace(batch, unlabeled=few), LATE)
    assert whole is not None
    assert part.pseudo is not None
    assert 0 < whole.mask[:2].mean() < 1
    torch.testing.assert_close(part.pseudo.mask, whole.mask[:2], atol=1e-5, rtol=0)
    assert [part.training for part in module(framework).modules()] == modes


def test_teachers_stay_as_they_are(make: Make, batch: SemiBatch) -> None:
    """Teachers stay in evaluation mode under ``train()``; a step leaves their weights and statistics alone."""
    framework = make()
    teachers = [part for part in module(framework).modules() if isinstance(part, Teacher)]
    if not teachers:
        pytest.skip("this framework has no teacher")
    module(framework).train()
    assert not any(part.training for teacher in teachers for part in teacher.model.modules())
    before = [tensor.clone() for teacher in teachers for tensor in teacher.state_dict().values()]
    framework.training_step(batch, LATE)
    after = [tensor for teacher in teachers for tensor in teacher.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_evaluated_stands_alone(make: Make, batch: SemiBatch, described: LocalizerConfig) -> None:
    """Each evaluated model's state is exactly a localizer's: no objective, no student, no optimizer."""
    models = make().eval_models()
    assert models
    view = batch.labeled.strong[0]
    for model in models:
        alone = Localizer(described).eval()
        state: Mapping[str, Tensor] = model.state_dict()
        alone.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(alone(view).confidence, model.eval()(view).confidence)


def test_resumed_is_uninterrupted(make: Make, batch: SemiBatch) -> None:
    """Steps with a state that was saved and loaded into a framework of another seed end with the same bits."""

    def optimizer(framework: Framework) -> torch.optim.Optimizer:
        return torch.optim.AdamW([dict(group) for group in framework.param_groups()], lr=1e-3)

    def run(framework: Framework, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
        losses = []
        for step in steps:
            total = framework.training_step(batch, LATE + step).loss.total
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            framework.after_step(LATE + step)
            losses.append(total.detach())
        return losses

    first = make()
    undisturbed = run(first, optimizer(first), range(4))
    saved, loaded = make(), make(seed=1)
    before = optimizer(saved)
    losses = run(saved, before, range(2))
    module(loaded).load_state_dict(module(saved).state_dict())
    after = optimizer(loaded)
    after.load_state_dict(before.state_dict())
    losses += run(loaded, after, range(2, 4))
    assert torch.equal(torch.stack(losses), torch.stack(undisturbed))
    expected = module(first).state_dict()
    torch.testing.assert_close(module(loaded).state_dict(), expected, rtol=0, atol=0, equal_nan=True)


def test_a_step_on_a_gpu_never_waits_for_it(make: Make, batch: SemiBatch) -> None:
    """No value is read and no tensor of the host is mixed in, on a GPU that torch plays without having one.

    But for XPL once it labels: its memory of labels is on the host's disk.
    """
    framework = make()
    with FakeTensorMode() as mode:

        def move(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor).to("cuda")

        def view(of: AVBatch) -> AVBatch:
            features = {key: move(value) for key, value in of.features.items()}
            mask = None if of.mask is None else move(of.mask)
            return AVBatch(move(of.frame), None, features, move(of.index), move(of.geometry), mask)

        module(framework)._apply(move)  # type: ignore[no-untyped-call]  # torch's own
        assert batch.unlabeled is not None
        assert batch.unlabeled.weak is not None
        there = SemiBatch(
            Views(tuple(map(view, batch.labeled.strong))),
            Views(tuple(map(view, batch.unlabeled.strong)), view(batch.unlabeled.weak)),
        )
        for step in (0, LATE):
            if isinstance(framework, KeepsLabels) and step:
                with pytest.raises(RuntimeError, match="numpy"):
                    framework.training_step(there, step)
                break
            output = framework.training_step(there, step)
            assert output.loss.total.device.type == "cuda"
            assert (output.pseudo is not None) == (framework.needs_weak_view and step > 0)
            framework.after_step(step)


@pytest.fixture
def device() -> torch.device:
    """A GPU, or what AVSL_TEST_DEVICE names."""
    device = torch.device(os.environ.get("AVSL_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device (AVSL_TEST_DEVICE=cpu runs this on the CPU)")
    return device


def _on(batch: SemiBatch, device: torch.device) -> SemiBatch:
    def view(of: AVBatch) -> AVBatch:
        features = {key: value.to(device) for key, value in of.features.items()}
        mask = None if of.mask is None else of.mask.to(device)
        return AVBatch(of.frame.to(device), None, features, of.index.to(device), of.geometry.to(device), mask)

    def views(of: Views) -> Views:
        return Views(tuple(map(view, of.strong)), None if of.weak is None else view(of.weak))

    return SemiBatch(views(batch.labeled), None if batch.unlabeled is None else views(batch.unlabeled))


@pytest.mark.gpu
def test_a_step_on_the_device_is_the_cpus(make: Make, batch: SemiBatch, device: torch.device) -> None:
    """Loss and gradient are finite and equal the CPU's, nothing waits for the device, and a loaded state gives both."""
    there = _on(batch, device)
    for step in (0, LATE):
        wanted, gradients = take(make(), batch, step)
        resumed = make(seed=1)
        module(resumed).load_state_dict(module(make()).state_dict())
        for framework in (make(), resumed):
            module(framework).to(device)
            reads = isinstance(framework, KeepsLabels) and step > 0
            if device.type == "cuda" and not reads:
                framework.training_step(there, step)  # libraries wait for the device when they start
                module(framework).load_state_dict(module(make()).state_dict())
                torch.cuda.set_sync_debug_mode("error")
            try:
                found, moved = take(framework, there, step)
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            assert found.loss.total.device.type == device.type
            assert torch.isfinite(found.loss.total)
            torch.testing.assert_close(found.loss.total.cpu(), wanted.loss.total, rtol=1e-3, atol=1e-4)
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    moved[name].cpu(), gradient, rtol=0, atol=1e-2 * max(float(gradient.abs().max()), 1e-3), msg=name
                )


def test_students_start_differently(make: Make) -> None:
    """Where there are several, no two have the same weights."""
    framework = make()
    students = [part for part in module(framework).modules() if isinstance(part, Branch)]
    weights = [torch.cat([p.flatten() for p in student.parameters()]) for student in students]
    for k, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[k + 1 :])


def test_steps_lower_the_loss(make: Make, batch: SemiBatch) -> None:
    """A few optimizer steps on one batch, each followed by what the framework does after it, learn it."""
    framework = make()
    optimizer = torch.optim.AdamW([dict(group) for group in framework.param_groups()], lr=3e-3)
    losses = []
    for step in range(8):
        total = framework.training_step(batch, step).loss.total
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        framework.after_step(step)
        losses.append(float(total.detach()))
    assert min(losses[-3:]) < losses[0] - 0.1 * abs(losses[0])
