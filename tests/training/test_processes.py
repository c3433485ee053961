"""Training on several devices: two processes on CPU, with gloo, as one training."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
from tests.fixtures.messages import facts
from tests.fixtures.trainings import Where, read_outcome, run_states

from avsl.config.compose import compose
from avsl.data.loading import StepLoader, TrainingRows
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.schema import ConfigError
from avsl.stages.train import train
from avsl.training import processes
from avsl.training.errors import TrainingError

_TWO = ["trainer.devices=2"]
_XPL = [*_TWO, "framework=xpl"]  # whose labels are shared too
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


class _Whole(NamedTuple):
    """A whole training: the labeled and unlabeled rows of each step in both processes, its runs and its outcome."""

    first: dict[int, list[list[int]]]
    second: dict[int, list[list[int]]]
    runs: dict[str, str]
    outcome: tuple[bytes, str]


@pytest.fixture(scope="module")
def whole(make_project: Callable[[], Path]) -> Iterator[_Whole]:
    """A training of two processes that nothing interrupts, with the rows that each read."""
    with contextlib.chdir(make_project()), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        log = Path("second.jsonl")
        do = "import json; open({!r}, 'a').write(json.dumps([step, drawn.labeled.index.tolist(), "
        do += "drawn.unlabeled.index.tolist()]) + '\\n')"
        patch.setattr(processes, "_OTHER", _SECOND.format(do=do.format(str(log.resolve()))))
        rows, first = StepLoader.rows, {}

        def read(self: StepLoader, step: int) -> TrainingRows:
            drawn = rows(self, step)
            assert drawn.unlabeled is not None
            first[step] = [drawn.labeled.index.tolist(), drawn.unlabeled.index.tolist()]
            return drawn

        patch.setattr(StepLoader, "rows", read)
        train(_XPL)
        here = Layout.of(compose(_XPL))
        assert not here.state.exists()
        second = {step: parts for step, *parts in map(json.loads, log.read_text().splitlines())}
        yield _Whole(first, second, run_states(), read_outcome(here))


@pytest.mark.slow
def test_two_processes_read_every_row_once(whole: _Whole) -> None:
    """Half a step's rows each, no unlabeled one twice."""
    first, second = whole.first, whole.second
    assert sorted(first) == sorted(second) == list(range(6))
    for step in first:
        assert [len(part) for part in first[step]] == [len(part) for part in second[step]] == [2, 2]
        assert not set(first[step][1]) & set(second[step][1])
    labeled = [row for step in range(3) for row in first[step][0] + second[step][0]]
    assert set(map(labeled.count, labeled)) == {2}  # six labeled rows fill the twelve places of an epoch


@pytest.mark.slow
def test_two_processes_are_one_run_with_one_line_an_epoch(whole: _Whole) -> None:
    """One MLflow run, and one set of curves."""
    assert list(whole.runs.values()) == ["FINISHED"]
    curves = whole.outcome[1]
    assert [line.split(",")[0] for line in curves.splitlines()] == ["epoch", "1.0", "2.0"]


@pytest.mark.slow
def test_two_processes_survive_the_kill_of_the_first(whole: _Whole, layout: Where) -> None:
    """After SIGKILL no process is left; the next training ends with the same weights, to the bit, and curves."""
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
        f"train({_XPL!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (other,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(other)
    here = layout(*_XPL)
    assert torch.load(here.checkpoint, weights_only=True)["global_step"] == 4
    (run_id,) = run_states()
    train(_XPL)
    assert read_outcome(here) == whole.outcome
    assert run_states() == {run_id: "FINISHED"} == {RunRecord.load(here.train).run_id: "FINISHED"}


@pytest.mark.slow
def test_a_process_that_fails_ends_the_training(layout: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process says which one and how it ended, and leaves none behind."""
    before = psutil.Process().children()
    monkeypatch.setattr(processes, "_OTHER", _SECOND.format(do="assert step < 1"))
    with pytest.raises(TrainingError, match=facts("process 1 code 1")):
        train(_TWO)
    assert list(run_states().values()) == ["FAILED"]
    assert psutil.Process().children() == before
    assert not layout(*_TWO).train.exists()


def test_a_step_is_divided_evenly(project: Path) -> None:
    """Rows that do not divide by the devices are refused by name."""
    with pytest.raises(ConfigError, match=facts("'trainer.batch_size' 8 'trainer.devices' 3")):
        compose(["trainer.devices=3"])
