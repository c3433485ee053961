"""Single steps: what is read, and how weights, teachers, momentum encoders and views change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fixtures.trainings import Fit, under, weights_of
from torch.utils._python_dispatch import TorchDispatchMode

from avsl.build import make_loader, make_reader
from avsl.config.compose import compose
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.branch import Branch
from avsl.paths import Layout
from avsl.stages.prepare import load_data
from avsl.training.module import SemiModule
from avsl.types import KeepsLabels, SemiBatch, StepOutput


class _ReadError(Exception):
    pass


class _Unread(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Refuses to give a tensor's value to Python, as ``item()``, ``float()``, ``bool()`` and the like ask for it."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do anything else."""
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _ReadError
        return func(*args, **(kwargs or {}))


Step = Callable[[SemiBatch, int], StepOutput]


def _unread() -> _Unread:
    return _Unread()  # type: ignore[no-untyped-call]  # torch's own


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_step_reads_no_value(framework: str, layout: Callable[..., Layout]) -> None:
    """Loss and backward pass, pseudo-labels and their quality against the hidden truth: nothing is waited for.

    But for XPL once it labels: which labels are good enough it asks of all labels so far, which the host keeps.
    """
    config = compose([f"framework={framework}"])
    data, drawn = load_data(layout())
    module = SemiModule(config, total_steps=6)
    reader = make_reader(config, module.modules(), data, data.rows_of(drawn.labeled + drawn.unlabeled))
    loader = make_loader(config, reader, drawn, module.framework)
    for step in (0, 5):
        rows = loader.rows(step)
        if isinstance(module.framework, KeepsLabels) and step:
            with _unread(), pytest.raises(_ReadError):
                module.training_step(rows, 0)
            continue
        with _unread():
            module.training_step(rows, 0).backward()  # type: ignore[no-untyped-call]  # torch's own
            module.framework.after_step(step)
    assert all(p.grad is not None for group in module.framework.param_groups() for p in group["params"])
    with _unread(), pytest.raises(_ReadError):
        float(torch.zeros(()))


@pytest.mark.parametrize("framework", ["dmt", "xpl"])
def test_independent_students_are_clipped_apart(framework: str, project: Path) -> None:
    """However large the other's gradient is, a student's is clipped to its own norm, in its own direction."""
    module = SemiModule(compose([f"framework={framework}"]), total_steps=6)
    first, second = (part for part in module.modules() if isinstance(part, Branch))
    for student, size in ((first, 0.1), (second, 1e6)):
        for p in student.parameters():
            if p.requires_grad:
                p.grad = torch.full_like(p, size)
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in s.parameters() if p.grad is not None]) for s in (first, second)
    ]
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters(), 0.1), 0.5)
    for student, size, norm in ((first, 0.1, norms[0]), (second, 1e6, norms[1])):
        expected = size * min(1.0, 0.5 / float(norm))
        found = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        torch.testing.assert_close(found, torch.full_like(found, expected))


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_momentum_encoders_follow_every_student(framework: str, fit: Fit) -> None:
    """θ_m ← m θ_m + (1 − m) θ after each step; their batch-norm sees each batch, as it is in training mode."""
    steps = fit(f"framework={framework}", "objective=slavc", "objective.slavc.momentum=0.8")
    assert len(steps.students) == len(steps.module.ensemble().members)
    for name in steps.students:
        names = weights_of(steps.module.get_submodule(f"{name}.model"))
        for before, after in itertools.pairwise(steps.states):
            kept, student = under(before, f"{name}.momentum."), under(after, f"{name}.model.")
            for key, found in under(after, f"{name}.momentum.").items():
                if key in names:
                    torch.testing.assert_close(found, 0.8 * kept[key] + 0.2 * student[key])
                elif key.endswith("num_batches_tracked"):
                    assert int(found) == int(kept[key]) + 1


@pytest.mark.parametrize("framework", ["mean_teacher", "dmt"])
def test_teachers_average_their_students_once_the_warm_up_ends(framework: str, fit: Fit) -> None:
    """A copy of the student after the first step; then θ_t ← β θ_t + (1 − β) θ."""
    key = f"framework.{framework}"
    steps = fit(f"framework={framework}", f"{key}.ema_decay=0.7", f"{key}.warmup_steps=1")
    pairs = (
        {"teacher": "student"} if framework == "mean_teacher" else {f"teachers.{k}": f"students.{k}" for k in (0, 1)}
    )
    for teacher, student in pairs.items():
        names = weights_of(steps.module.get_submodule(f"framework.{student}.model"))
        for number, (before, after) in enumerate(itertools.pairwise(steps.states)):
            old, new, taught = (
                under(state, f"framework.{part}.model.")
                for state, part in ((before, teacher), (after, teacher), (after, student))
            )
            for name in names:
                expected = taught[name] if number == 0 else 0.7 * old[name] + 0.3 * taught[name]
                torch.testing.assert_close(new[name], expected)
        assert any(not torch.equal(new[name], taught[name]) for name in names)


def test_every_step_and_view_is_augmented_differently(fit: Fit) -> None:
    """No two steps, views or runs of another seed share their crops; the weak view is cropped as weakly as is asked."""
    scales = ["augment.weak_scale=0.9", "augment.strong_scale=0.4"]
    first, again, other = (fit("framework=mean_teacher", f"seed={seed}", *scales) for seed in (0, 0, 1))
    drawn = []
    for batch in [*first.batches, *other.batches]:
        assert batch.unlabeled is not None
        assert batch.unlabeled.weak is not None
        weak, strong = batch.unlabeled.weak.geometry, batch.unlabeled.strong[0].geometry
        assert 0.9 <= float(weak[:, 1, 1].min()) <= float(weak[:, 1, 1].max()) <= 1
        assert float(strong[:, 1, 1].min()) < 0.9
        drawn += [strong, weak, batch.labeled.strong[0].geometry]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    for one, two in zip(first.batches, again.batches, strict=True):
        assert torch.equal(one.labeled.strong[0].frame, two.labeled.strong[0].frame)


@pytest.mark.parametrize("framework", ["dmt", "xpl"])
def test_students_differ_and_so_do_seeds(framework: str, fit: Fit) -> None:
    """In every matrix of their initial weights."""
    runs = [fit(f"framework={framework}", f"seed={seed}") for seed in (0, 1)]
    found = [under(run.states[0], f"{name}.model.") for run in runs for name in run.students]
    assert len(found) == 4
    kernels = [name for name, tensor in found[0].items() if tensor.ndim == 4 and min(tensor.shape[:2]) > 1]
    for one, two in itertools.combinations(found, 2):
        assert not any(torch.equal(one[name], two[name]) for name in kernels)


@pytest.mark.parametrize("framework", ["supervised", "pseudo_label", "dmt"])
def test_trunks_wait_for_the_steps_that_they_are_frozen_for(framework: str, fit: Fit) -> None:
    """Neither their weights nor their statistics change, whatever the labelers' mode; then they are trained."""
    warm_up = [] if framework == "supervised" else [f"framework.{framework}.warmup_steps=1"]
    steps = fit(f"framework={framework}", "trainer.freeze_trunk=0.67", *warm_up)
    for student in steps.students:
        for number, (before, after) in enumerate(itertools.pairwise(steps.states)):
            old, new = under(before, f"{student}.model."), under(after, f"{student}.model.")
            changed = {name for name in new if not torch.equal(old[name], new[name])}
            assert any("backbone" in name for name in changed) is (number >= 2)
            assert any(name.endswith("running_mean") for name in changed) is (number >= 2)
            assert {"image.lateral.0.weight", "audio.head.weight"} <= changed


def test_a_training_on_kept_outputs_is_that_on_the_frozen_networks(fit: Fit) -> None:
    """But for half precision, where the views are the same; its batches have no pixels."""
    still = ["augment.flip=0", "augment.weak_scale=1", "augment.strong_scale=1", "augment.jitter=0", "augment.noise=0"]
    frozen = ["model.image.frozen=true", "model.audio.frozen=true", "augment.spec_mask=0", *still]
    asked = ["framework=dmt", "framework.dmt.warmup_steps=1", *frozen]
    losses: list[list[float]] = [[], []]
    for found, cached in zip(losses, ("false", "true"), strict=True):

        def watch(original: Step, batch: SemiBatch, number: int, _: Any, found: list[float] = found) -> StepOutput:
            output = original(batch, number)
            found.append(float(output.loss.total.detach()))
            return output

        steps = fit(*asked, f"model.cache_frozen={cached}", step=watch)
    assert steps.batches[0].labeled.strong[0].frame.numel() == 0
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
