"""A few steps of a real training, looked at from outside: what each step does to weights, rates, views and logs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from avsl.build import make_loader, make_reader
from avsl.config.compose import compose
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.branch import Branch
from avsl.functional.geometry import warp
from avsl.paths import Layout
from avsl.stages.prepare import load_data
from avsl.training.logger import EpochLogger
from avsl.training.module import SemiModule
from avsl.types import SemiBatch, StepOutput

State = dict[str, Tensor]


@dataclass
class Steps(Callback):
    """What a training does: its module, and a value for each step.

    Attributes:
        states: weights and statistics, first before the training, then after each step.
        rates: the first parameter group's learning rate.
        norms: each student's gradient, as the optimizer got it.
        batches: the views of the step's rows.
    """

    module: SemiModule
    states: list[State] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[list[float]] = field(default_factory=list)
    batches: list[SemiBatch] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def students(self) -> list[str]:
        """The students' names in the module."""
        return [name for name, part in self.module.named_modules() if isinstance(part, Branch)]

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the initial weights."""
        self.states.append(self._state())

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the learning rate."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the weights and the gradients' norms."""
        self.states.append(self._state())
        parts = [part for part in self.module.modules() if isinstance(part, Branch)]
        gradients = [[p.grad for p in part.parameters() if p.grad is not None] for part in parts]
        self.norms.append([float(nn.utils.get_total_norm(found)) for found in gradients])

    def _state(self) -> State:
        state = self.module.state_dict().items()
        return {
            name: value.detach().clone() for name, value in state if isinstance(value, Tensor)
        }  # XPL keeps labels too


class _Unrecorded:
    run_id = ""

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """The history has them."""

    def log_folder(self, path: object) -> None:
        """There is none."""


Fit = Callable[..., Steps]


@pytest.fixture
def fit(layout: Callable[..., Layout]) -> Fit:
    """``fit("framework=dmt", epochs=2)``: trains the tiny project, three steps an epoch."""

    def train(*overrides: str, epochs: int = 1, step: Callable[..., StepOutput] | None = None) -> Steps:
        config = compose([f"trainer.epochs={epochs}", *overrides])
        data, drawn = load_data(layout())
        students = [config.model.student(k) for k in (0, 1)]
        reader = make_reader(config, students, data, data.rows_of(drawn.labeled + drawn.unlabeled))
        module = SemiModule(config, total_steps=3 * epochs)
        steps = Steps(module)
        original = module.framework.training_step

        def watched(batch: SemiBatch, number: int) -> StepOutput:
            steps.batches.append(batch)
            return original(batch, number) if step is None else step(original, batch, number, loader.rows(number))

        module.framework.training_step = watched  # type: ignore[assignment,method-assign]
        loader = make_loader(config, reader, drawn, module.framework)
        epoch_logger = EpochLogger(_Unrecorded(), epochs)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            gradient_clip_val=config.trainer.gradient_clip or None,
            callbacks=[steps],
            logger=epoch_logger,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, loader)
        steps.history = epoch_logger.history
        return steps

    return train


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _weights(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_momentum_encoders_follow_every_student(framework: str, fit: Fit) -> None:
    """θ_m ← m θ_m + (1 − m) θ after each step; their batch-norm sees each batch, as it is in training mode."""
    steps = fit(f"framework={framework}", "objective=slavc", "objective.slavc.momentum=0.8")
    assert len(steps.students) == (2 if framework in ("dmt", "xpl") else 1)
    for name in steps.students:
        names = _weights(steps.module.get_submodule(f"{name}.model"))
        for before, after in itertools.pairwise(steps.states):
            kept, student = _under(before, f"{name}.momentum."), _under(after, f"{name}.model.")
            for key, found in _under(after, f"{name}.momentum.").items():
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
        names = _weights(steps.module.get_submodule(f"framework.{student}.model"))
        for number, (before, after) in enumerate(itertools.pairwise(steps.states)):
            old, new, taught = (
                _under(state, f"framework.{part}.model.")
                for state, part in ((before, teacher), (after, teacher), (after, student))
            )
            for name in names:
                expected = taught[name] if number == 0 else 0.7 * old[name] + 0.3 * taught[name]
                torch.testing.assert_close(new[name], expected)
        assert any(not torch.equal(new[name], taught[name]) for name in names)


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
    moved = {name: float((after[name] - before[name]).abs().max()) for name in _weights(steps.module)}
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
        lost = plain.states[1][name] - decayed.states[1][name]
        expected = 0.01 * 0.5 * start[name] if sum(n > 1 for n in parameter.shape) > 1 else 0 * start[name]
        torch.testing.assert_close(lost, expected, atol=1e-6, rtol=1e-3)


def test_gradients_are_clipped(fit: Fit) -> None:
    """Each student's to the norm that is asked for, where it is larger; 0 leaves it alone."""
    free, clipped = (fit("framework=dmt", f"trainer.gradient_clip={norm}") for norm in (0, 0.01))
    assert min(itertools.chain(*free.norms)) > 0.02
    assert list(itertools.chain(*clipped.norms)) == pytest.approx([0.01] * 6, rel=1e-3)


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
    found = [_under(run.states[0], f"{name}.model.") for run in runs for name in run.students]
    assert len(found) == 4
    kernels = [name for name, tensor in found[0].items() if tensor.ndim == 4 and min(tensor.shape[:2]) > 1]
    for one, two in itertools.combinations(found, 2):
        assert not any(torch.equal(one[name], two[name]) for name in kernels)


def test_pseudo_labels_are_measured_in_the_view_they_were_made_in(fit: Fit) -> None:
    """The truth, seen through the weak view's crop, has an IoU of 1 with the truth."""

    def tell_the_truth(original: Callable[..., StepOutput], batch: SemiBatch, number: int, rows: Any) -> StepOutput:
        output = original(batch, number)
        assert batch.unlabeled is not None
        assert batch.unlabeled.weak is not None
        if output.pseudo is None:
            return output
        truth = warp(rows.hidden[:, None], batch.unlabeled.weak.geometry, mode="nearest")[:, 0]
        return replace(output, pseudo=replace(output.pseudo, mask=truth, accepted=torch.ones(len(truth)) > 0))

    asked = ["framework=mean_teacher", "framework.mean_teacher.warmup_steps=1", "augment.weak_scale=0.4"]
    (epoch,) = fit(*asked, step=tell_the_truth).history
    assert epoch["pseudo/iou"] > 0.85
