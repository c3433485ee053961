"""Checkpoints: what is resumed, to the bit, and what is not."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from tests.fixtures.messages import says
from tests.fixtures.trainings import KilledError, Where, killed_at, read_outcome, recorded_steps, run_states

from avsl.config.compose import compose
from avsl.data.splits import Split
from avsl.frameworks import FRAMEWORKS
from avsl.records import RunRecord
from avsl.stages.prepare import split
from avsl.stages.train import train
from avsl.training import loop
from avsl.training.checkpoint import find_checkpoint
from avsl.training.loop import identity


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_resumed_training_ends_as_an_undisturbed_one(
    framework: str, layout: Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Interrupted in both epochs, a training has the same weights to the bit, the same curves and one MLflow run."""
    caplog.set_level(logging.INFO)
    asked = [f"framework={framework}"]
    here = layout(*asked)
    for step, kept in ((2, 2), (5, 4)):
        with killed_at(step):
            train(asked)
        saved = torch.load(here.state / "last.ckpt", weights_only=True)
        assert saved["global_step"] == kept
        assert {path.name for path in here.state.iterdir()} <= {"last.ckpt", "last.lock"}
        assert not here.train.exists()
    train(asked)
    assert caplog.text.count("continuing from") == 2
    assert read_outcome(here) == undisturbed(*asked)
    assert not here.state.exists()
    run_id = RunRecord.load(here.train).run_id
    assert run_id == saved["stamp"]["run_id"]
    assert run_states() == {run_id: "FINISHED"}
    points = recorded_steps(run_id)
    assert points["train/loss"] == points["val/ciou"] == [1, 2]
    assert all(len(steps) == len(set(steps)) for steps in points.values())


@pytest.mark.slow
def test_a_process_that_is_killed_is_continued(
    project: Path, layout: Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGKILL, when nothing gets to clean up, the next training goes on in the same MLflow run."""
    caplog.set_level(logging.INFO)
    script = (
        "import os, signal\n"
        "from avsl.data.loading import StepLoader\n"
        "from avsl.stages.train import train\n"
        "rows = StepLoader.rows\n"
        "def dying(self, number):\n"
        "    if number == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rows(self, number)\n"
        "StepLoader.rows = dying\n"
        "train(['framework=dmt'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (run_id,) = run_states()
    train(["framework=dmt"])
    assert "continuing from" in caplog.text
    assert read_outcome(layout()) == undisturbed("framework=dmt")
    assert run_states() == {run_id: "FINISHED"}


@pytest.mark.slow
def test_another_delta_starts_again(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The old δ's checkpoint is left aside, said so, and decides nothing: neither weights, curves nor MLflow run."""
    caplog.set_level(logging.INFO)
    with killed_at(5):
        train()
    (old,) = run_states()
    other = "framework.dmt.delta=0.2"
    train([other, "root=outputs"])
    assert says(caplog.text, layout().state / "last.ckpt")
    assert read_outcome(layout()) == undisturbed(other)
    assert undisturbed(other) != undisturbed("framework=dmt")
    assert RunRecord.load(layout().train).run_id != old


@pytest.mark.slow
def test_a_checkpoint_belongs_to_one_configuration_split_and_code(
    layout: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides the weights must be equal for a checkpoint to be continued; what does not may differ."""
    with killed_at(2):
        train()
    checkpoint, drawn = layout().state / "last.ckpt", Split.load(layout().split)
    (run_id,) = run_states()

    def found(*overrides: str) -> str | None:
        return find_checkpoint(checkpoint, identity(compose(overrides), drawn))

    assert found() == run_id
    assert found("evaluate.batch_size=7", "tracking.system_metrics=true") == run_id
    for change in ("seed=1", "trainer.learning_rate=0.5", "augment.noise=0.5", "objective.ezvsl.temperature=0.5"):
        assert found(change) is None, change
    split(["split.seed=1", "root=outputs"])
    assert find_checkpoint(checkpoint, identity(compose(), Split.load(layout().split))) is None
    monkeypatch.setattr(loop, "code_hash", lambda config: "edited")
    assert found() is None


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated checkpoint is named and the training starts again."""
    with killed_at(5):
        train()
    checkpoint = layout().state / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    train()
    assert says(caplog.text, checkpoint)
    assert read_outcome(layout()) == undisturbed("framework=dmt")


@pytest.mark.slow
def test_a_checkpoint_replaces_the_last_one_only_when_it_is_whole(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]]
) -> None:
    """A training that is killed while it writes its second checkpoint resumes from the first."""
    save = lightning.Trainer.save_checkpoint

    def dying(self: lightning.Trainer, path: Path) -> None:
        save(self, path)
        if self.global_step > 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", dying)
        with pytest.raises(KilledError):
            train()
    assert torch.load(layout().state / "last.ckpt", weights_only=True)["global_step"] == 2
    train()
    assert read_outcome(layout()) == undisturbed("framework=dmt")
