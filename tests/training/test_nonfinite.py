"""Steps whose loss or gradient is not finite: they end the training, or are skipped."""

from __future__ import annotations

import contextlib
import csv
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts, says
from tests.fixtures.trainings import Where, read_outcome, run_states
from torch import Tensor, nn

from avsl.data.loading import StepLoader, TrainingRows
from avsl.data.prepared.reader import PreparedData
from avsl.frameworks.xpl import XPL
from avsl.stages.train import train
from avsl.training.errors import TrainingError
from avsl.training.module import SemiModule
from avsl.training.nonfinite import NonFiniteGuard


@contextlib.contextmanager
def nan_at(*steps: int) -> Iterator[None]:
    """The sounds of the labeled rows of some steps are NaN."""
    rows = StepLoader.rows

    def broken(self: StepLoader, number: int) -> TrainingRows:
        drawn = rows(self, number)
        if number not in steps:
            return drawn
        features = {key: f * float("nan") for key, f in drawn.labeled.features.items()}
        return replace(drawn, labeled=replace(drawn.labeled, features=features))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLoader, "rows", broken)
        yield


@pytest.mark.parametrize(("step", "waits", "kept"), [(0, False, 0), (3, False, 2), (3, True, 2), (5, True, 4)], ids=str)
def test_a_step_that_is_not_finite_ends_the_training(
    step: int, waits: bool, kept: int, layout: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step, its rows and the last checkpoint, which is from before, however late one looks."""
    if waits:  # as on a GPU, where nobody looks until a checkpoint or the validation is due
        monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", lambda *_: None)
    read: list[TrainingRows] = []
    rows = StepLoader.rows

    def noted(self: StepLoader, number: int) -> TrainingRows:
        read.append(rows(self, number))
        return read[-1]

    monkeypatch.setattr(StepLoader, "rows", noted)
    with nan_at(step), pytest.raises(TrainingError) as caught:
        train()
    here = layout()
    broken = next(drawn for drawn in read if drawn.step == step)
    assert broken.unlabeled is not None
    known = PreparedData.open(here.prepared).sample_ids
    ids = ", ".join(known[k] for k in [*broken.labeled.index.tolist(), *broken.unlabeled.index.tolist()])
    checkpoint = here.state / "last.ckpt"
    good = f"{checkpoint}, after {kept} steps" if kept else "none yet"
    assert says(str(caught.value), "trainer.loss_limit", f"step {step} (rows {ids})", good)
    assert checkpoint.exists() == bool(kept)
    if kept:
        assert torch.load(checkpoint, weights_only=True)["global_step"] == kept
    assert not here.train.exists()
    assert list(run_states().values()) == ["FAILED"]


@pytest.mark.parametrize(
    "asked",
    [["framework=dmt"], ["framework=xpl"], ["framework=self_supervised", "objective=slavc"]],
    ids=["teachers", "peers", "momentum encoders"],
)
def test_a_skipped_step_changes_nothing_and_is_counted(
    asked: list[str], layout: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, statistics, teachers, peers' labels and the optimizer's moments are what they were.

    The step's loss is in no mean.
    """
    seen: dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    at_start: dict[str, torch.Tensor] = {}
    step, end = SemiModule.training_step, NonFiniteGuard.on_train_batch_end

    def state(module: SemiModule) -> dict[str, torch.Tensor]:
        assert isinstance(module.framework, nn.Module)
        tensors = {
            name: value.clone() for name, value in module.framework.state_dict().items() if isinstance(value, Tensor)
        }
        if isinstance(module.framework, XPL):
            rows = np.arange(24 + 6 + 6 + 4 + 3 + 5)  # of the project's data set
            tensors["labels"] = torch.from_numpy(module.framework.labels.read(rows, (8, 8))).nan_to_num(-1)
            tensors["reliability"] = torch.from_numpy(module.framework.labels.reliability)
        moments = module.trainer.optimizers[0].state_dict()["state"]
        return tensors | {f"{k}.{name}": m.clone() for k, entry in moments.items() for name, m in entry.items()}

    def at_its_start(self: SemiModule, rows: TrainingRows, batch_idx: int) -> torch.Tensor:
        at_start.clear()
        at_start.update(state(self))
        return step(self, rows, batch_idx)

    def at_its_end(
        self: NonFiniteGuard, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        end(self, trainer, module, *args)
        assert isinstance(module, SemiModule)
        seen[module.step] = dict(at_start), state(module)

    monkeypatch.setattr(SemiModule, "training_step", at_its_start)
    monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", at_its_end)
    with nan_at(1, 2):
        train([*asked, "trainer.non_finite=skip", "trainer.epochs=1", "trainer.gradient_clip=0", "root=outputs"])
    for number, (before, after) in seen.items():
        kept = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
        if number in (1, 2):
            assert kept == before.keys() == after.keys()
        else:
            assert len(kept) < len(after) / 2
    (line,) = csv.DictReader((layout(*asked).train / "curves.csv").read_text().splitlines())
    assert float(line["train/skipped"]) == 2
    assert 0 < float(line["train/loss"]) < 100


def test_a_loss_that_explodes_ends_the_training(layout: Where) -> None:
    """It is finite still; the step, its rows and the way out are named."""
    with pytest.raises(TrainingError, match=facts("trainer.loss_limit step 0 rows none")):
        train(["trainer.loss_limit=0.001"])
    assert not layout().train.exists()


def test_an_epoch_without_a_finite_step_ends_the_training(layout: Where) -> None:
    """Skipping has an end where there is nothing else."""
    with nan_at(3, 4, 5), pytest.raises(TrainingError, match=facts("epoch step 5")):
        train(["trainer.non_finite=skip"])
    assert not layout().train.exists()


@pytest.mark.slow
def test_what_stopped_goes_on_with_skip_as_if_it_had_been_asked_for_at_once(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """From the last good checkpoint; and where every step is finite both are the same to the bit."""
    caplog.set_level(logging.INFO)
    skip, here = "trainer.non_finite=skip", layout()
    with nan_at(3):
        with pytest.raises(TrainingError, match=facts("finite step 3")):
            train()
        train([skip])
        assert "continuing from" in caplog.text
        resumed = read_outcome(here)[0]
        shutil.rmtree(here.train)
        train([skip])
    assert read_outcome(here)[0] == resumed
    assert undisturbed("framework=dmt", skip)[0] == undisturbed("framework=dmt")[0] != resumed
