"""Killed commands: whether running the same command again ends as if it had never been killed.

Each case starts from a copy of a project, kills the command's whole process group at a random moment of it, runs the
command again and compares what it leaves with what an undisturbed run leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from benchmarks.faults.project import make_project
from filelock import FileLock, Timeout

from avsl.config.compose import compose
from avsl.files import PART, file_hash
from avsl.registry.rules import model_name
from avsl.registry.versions import CHAMPION
from avsl.tracking.store import open_store

# Marks the processes of a case: whoever they were started by, they inherit it.
_MARK = "AVSL_FAULTS_CASE"
_SWEEP = Path(__file__).parents[2] / "pipelines" / "sweep.py"

Result = Mapping[str, object]


def _tree(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files of a folder that match, by their path in it."""
    found = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in found}


def _prepared(project: Path) -> Result:
    return _tree(project / "outputs" / "synthetic" / "prepared", "*")


def _trained(project: Path) -> Result:
    files = ("train/*/*/model/*", "train/*/*/curves.csv", "train/*/*/config.yaml")
    return _tree(project / "outputs" / "synthetic", *files)


def _registry(project: Path) -> Result:
    """Every version's model and the champion's, whatever their numbers."""
    with chdir(project):
        config = compose()
        client = open_store(config.tracking, config.root).client
        name = model_name("synthetic", config.split.label_ratio)
        versions = client.search_model_versions(f"name='{name}'")
        champion = client.get_model_version_by_alias(name, CHAMPION)
    hashes = sorted(version.tags["model_hash"] for version in versions)
    return {"versions": hashes, "champion": champion.tags["model_hash"]}


def _swept(project: Path) -> Result:
    """Each trial's values, state and score, and the registry."""
    (path,) = (project / "outputs" / "sweep").rglob("result.json")  # MLflow has another
    result = json.loads(path.read_text())
    kept = ("number", "framework", "values", "state", "score")
    trials = [{key: trial[key] for key in kept} for trial in result["trials"]]
    return {"best": result["best"], "trials": trials, **_registry(project)}


@dataclass(frozen=True)
class Phase:
    """What is killed.

    Attributes:
        name: of the phase.
        command: what runs, from the project's folder.
        again: what is added when it is run again after the kill.
        before: the commands that lead up to it.
        outcome: what an undisturbed run and a killed and repeated one must leave alike.
    """

    name: str
    command: Sequence[str]
    before: Sequence[Sequence[str]]
    outcome: Callable[[Path], Result]
    again: Sequence[str] = ()


def _avsl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "avsl.cli", *arguments]


_DATA = (_avsl("prepare"), _avsl("split"))
# A checkpoint after every step: most moments of a training lie in one being written.
_OFTEN = _avsl("train", "framework=xpl", "trainer.checkpoint_every=1")
PHASES = (
    Phase("prepare", _avsl("prepare", "data.synthetic.n_train=1200"), (), _prepared),
    Phase("train", _avsl("train"), _DATA, _trained),
    Phase("checkpoint", _OFTEN, _DATA, _trained),
    Phase("register", _avsl("register"), (*_DATA, _avsl("train"), _avsl("evaluate")), _registry),
    Phase("sweep", [sys.executable, str(_SWEEP), "tune=small"], (), _swept, ("tune.resume=true",)),
)


@dataclass(frozen=True)
class Killed:
    """How a case ended.

    Attributes:
        phase: what was killed.
        at: the moment, as a share of the undisturbed command's seconds.
        seconds: the moment.
        problems: what differs from an undisturbed run; none where all is well.
    """

    phase: str
    at: float
    seconds: float
    problems: tuple[str, ...]


class Kills:
    """Projects of which a phase is yet to run, and what an undisturbed run of it leaves.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: dict[str, tuple[Path, Result, float]] = {}

    def run(self, phase: Phase, seed: int) -> Killed:
        """Kill the phase at the moment that the seed draws, run it again, compare."""
        ready, wanted, usual = self._undisturbed(phase)
        at = float(np.random.default_rng((seed, 7)).uniform(0.02, 0.98))
        project, mark = _project(ready), f"{phase.name}-{seed}-{os.getpid()}"
        while True:
            shutil.rmtree(project)
            shutil.copytree(ready, project)
            start = time.perf_counter()
            process = _start(phase.command, project, mark)
            try:
                process.wait(at * usual)
            except subprocess.TimeoutExpired:
                break
            at *= 0.8  # quicker than the undisturbed one: an earlier moment
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        moment = time.perf_counter() - start
        return Killed(phase.name, at, moment, tuple(self._repeat(phase, project, mark, wanted)))

    def _repeat(self, phase: Phase, project: Path, mark: str, wanted: Result) -> list[str]:
        code = _start([*phase.command, *phase.again], project, mark).wait()
        if code and phase.again and "leave tune.resume out" in (project / "log").read_text():
            code = _start(phase.command, project, mark).wait()  # nothing had been begun: it says what to do
        if code:
            return [f"run again, it ends with {code}: {(project / 'log').read_text()[-300:]}"]
        problems = []
        found = phase.outcome(project)
        if found != wanted:
            differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
            problems.append(f"differs: {', '.join(differing)}")
        if orphans := _left(mark):
            problems.append(f"orphans: {', '.join(orphans)}")
        if parts := [path.name for path in project.rglob(f"*{PART}")]:
            problems.append(f"half-written: {', '.join(parts)}")
        if locks := [path.name for path in project.rglob("*.lock") if _held(path)]:
            problems.append(f"stale locks: {', '.join(locks)}")
        return problems

    def _undisturbed(self, phase: Phase) -> tuple[Path, Result, float]:
        """A project before the phase, what the phase leaves and how long it takes, s."""
        if phase.name not in self._ready:
            ready = self._folder / phase.name / "ready"
            project = _project(ready)
            make_project(project)
            for command in phase.before:
                _finish(command, project)
            shutil.copytree(project, ready)
            start = time.perf_counter()
            _finish(phase.command, project)
            self._ready[phase.name] = ready, phase.outcome(project), time.perf_counter() - start
        return self._ready[phase.name]


def _project(ready: Path) -> Path:
    """Where the copies of a project run, always in one place: MLflow keeps absolute paths."""
    return ready.with_name("project")


def _start(command: Sequence[str], project: Path, mark: str) -> subprocess.Popen[bytes]:
    """A command as the leader of a process group, as a terminal's foreground job is."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_ADDRESS"))}
    with (project / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=project, env=environment | {_MARK: mark}, stdout=log, stderr=log, start_new_session=True
        )


def _finish(command: Sequence[str], project: Path) -> None:
    if code := _start(command, project, "").wait():
        raise RuntimeError(f"{' '.join(command)} ends with {code}: {(project / 'log').read_text()[-2000:]}")


def _left(mark: str) -> list[str]:
    """Processes of the case that live a few seconds after its command has ended."""
    for _ in range(50):
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.name())
            except psutil.Error:
                continue
        if not found:
            break
        time.sleep(0.1)
    return found


def _held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def cases(number: int) -> list[tuple[Phase, int]]:
    """Phases in turn, each time with another seed."""
    return [(PHASES[k % len(PHASES)], k) for k in range(number)]
