"""Training on several devices: two processes on CPU, with gloo, as one training."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from tests.fixtures.messages import facts

from avsl.config.compose import compose
from avsl.data.loading import StepLoader, TrainingRows
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.schema import ConfigError
from avsl.stages.train import train
from avsl.tracking.store import open_store
from avsl.training import processes
from avsl.training.errors import TrainingError

_Where = Callable[..., Layout]
_TWO = ["trainer.devices=2"]
# What the second process does, with something done before it reads the rows of a step.
_SECOND = """
from avsl.data.loading import StepLoader
from avsl.training.loop import take_part
rows = StepLoader.rows
def read(self, step):
    drawn = rows(self, step)
    {do}
    return drawn
StepLoader.rows = read
take_part()
"""


def _runs() -> dict[str, str]:
    """The MLflow runs of the project and how they ended."""
    config = compose()
    client = open_store(config.tracking, config.root).client
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


def _outcome(here: Layout) -> tuple[bytes, str]:
    return (here.train / "model" / "model.safetensors").read_bytes(), (here.train / "curves.csv").read_text()


def _drawn(rows: TrainingRows) -> list[list[int]]:
    assert rows.unlabeled is not None
    return [rows.labeled.index.tolist(), rows.unlabeled.index.tolist()]


@pytest.mark.slow
def test_two_processes_are_one_training_that_goes_on_after_a_kill(
    make_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log, one MLflow run, every row read once; after SIGKILL no process is left and the end is the same.

    Compared are weights, to the bit, and curves.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    undisturbed, killed = make_project(), make_project()
    asked = [*_TWO, "framework=xpl"]  # whose labels are shared too

    monkeypatch.chdir(undisturbed)
    here = Layout.of(compose(asked))
    told = undisturbed / "second.jsonl"
    do = f"import json; open({str(told)!r}, 'a').write(json.dumps([step, drawn.labeled.index.tolist(), "
    do += "drawn.unlabeled.index.tolist()]) + '\\n')"
    monkeypatch.setattr(processes, "_OTHER", _SECOND.format(do=do))
    rows, first = StepLoader.rows, {}

    def read(self: StepLoader, step: int) -> TrainingRows:
        drawn = rows(self, step)
        first[step] = _drawn(drawn)
        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLoader, "rows", read)
        train(asked)
    second = {step: parts for step, *parts in map(json.loads, told.read_text().splitlines())}
    assert sorted(first) == sorted(second) == list(range(6))
    for step in first:
        assert [len(part) for part in first[step]] == [len(part) for part in second[step]] == [2, 2]
        assert not set(first[step][1]) & set(second[step][1])
    drawn_in_an_epoch = [row for step in range(3) for row in first[step][0] + second[step][0]]
    assert set(map(drawn_in_an_epoch.count, drawn_in_an_epoch)) == {2}  # six labeled rows fill twelve places
    assert list(_runs().values()) == ["FINISHED"]
    assert not here.state.exists()
    expected = _outcome(here)
    assert [line.split(",")[0] for line in expected[1].splitlines()] == ["epoch", "1.0", "2.0"]
    monkeypatch.undo()

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(killed)
    script = (
        "import os, signal, psutil\n"
        "from avsl.data.loading import StepLoader\n"
        "from avsl.stages.train import train\n"
        "rows = StepLoader.rows\n"
        "def dying(self, step):\n"
        "    if step == 5:\n"
        "        print(*(child.pid for child in psutil.Process().children()), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rows(self, step)\n"
        "StepLoader.rows = dying\n"
        f"train({asked!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (other,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(other)
    assert torch.load(here.checkpoint, weights_only=True)["global_step"] == 4
    (run_id,) = _runs()
    train(asked)
    assert _outcome(here) == expected
    assert _runs() == {run_id: "FINISHED"} == {RunRecord.load(here.train).run_id: "FINISHED"}


@pytest.mark.slow
def test_a_process_that_fails_ends_the_training(layout: _Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process says which one and how it ended, and leaves none behind."""
    before = psutil.Process().children()
    monkeypatch.setattr(processes, "_OTHER", _SECOND.format(do="assert step < 1"))
    with pytest.raises(TrainingError, match=facts("process 1 code 1")):
        train(_TWO)
    assert list(_runs().values()) == ["FAILED"]
    assert psutil.Process().children() == before
    assert not layout(*_TWO).train.exists()


def test_a_step_is_divided_evenly(project: Path) -> None:
    """Rows that do not divide by the devices are refused by name."""
    with pytest.raises(ConfigError, match=facts("'trainer.batch_size' 8 'trainer.devices' 3")):
        compose(["trainer.devices=3"])
