"""A step for every seed of the matrix."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fixtures.messages import facts

from avsl.config.compose import compose
from avsl.config.params import matrix_seeds
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.schema import ConfigError
from avsl.stages.prepare import split_seeds
from avsl.stages.seeds import SeedError, share_cores, side_by_side


def _set_seeds(project: Path, seeds: Any) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(params | {"matrix": {"seeds": seeds}}))


@pytest.mark.parametrize("seeds", [[], [0, 0], [-1], [0.5], "0", [True]])
def test_seeds_are_different_whole_numbers(seeds: Any, project: Path) -> None:
    """Anything else is an error that names the key."""
    _set_seeds(project, seeds)
    with pytest.raises(ConfigError, match=facts("params.yaml", "matrix.seeds", "[0, 1, 2]")):
        matrix_seeds(project)


def test_a_project_without_the_key_has_one_seed(project: Path) -> None:
    """It is that of every command."""
    assert matrix_seeds(project) == [0]


def test_a_seed_chooses_its_labeled_clips_unless_the_split_has_its_own(project: Path) -> None:
    """Validation and test are the same for all; a seed that leaves the matrix takes its split along."""
    _set_seeds(project, [0, 3])
    split_seeds()
    folder = Layout.of(compose()).splits
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "3.json"]
    first, second = (yaml.safe_load((folder / f"{seed}.json").read_text()) for seed in (0, 3))
    assert first["labeled"] != second["labeled"]
    assert (first["validation"], first["tests"]) == (second["validation"], second["tests"])
    _set_seeds(project, [3])
    split_seeds()
    assert [path.name for path in folder.iterdir()] == ["3.json"]
    assert compose(["seed=3"]).split.seed == 3
    assert compose(["seed=3", "split.seed=0"]).split.seed == 0


@pytest.mark.parametrize("cpus", [1, 2, 0.5])
@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("count", range(1, 12))
def test_no_core_idles_while_the_last_tasks_run(count: int, cores: int, cpus: float) -> None:
    """Full rounds come first; the last tasks together take all cores, or as many as they can use."""
    shares, at_once = share_cores(count, cpus, cores), int(cores // cpus)
    assert len(shares) == count
    last = [share for share in shares if share < cpus]
    if not at_once or count <= at_once or count % at_once == 0:
        assert not last
        return
    assert (count - len(last)) % at_once == 0
    assert len(last) < 2 * at_once
    assert at_once * cpus - 0.01 < sum(last) <= at_once * cpus


@pytest.mark.slow
def test_a_failure_stops_no_other_seed(project: Path) -> None:
    """The error names the task and its reason, after the others are done."""
    folder = Layout.of(compose()).splits
    for path in folder.iterdir():
        path.unlink()
    tasks = {"seed 0": (["seed=0"],), "seed 1": (["seed=1", "split.label_ratio=7"],), "seed 2": (["seed=2"],)}
    with pytest.raises(SeedError, match=facts("seed 1", "split.label_ratio")) as raised:
        side_by_side("avsl.stages.prepare:split", tasks, compose())
    assert "seed 0" not in str(raised.value)
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "2.json"]


@pytest.mark.slow
def test_sigterm_ends_all_seeds_and_the_same_command_continues(project: Path) -> None:
    """The exit code says so; every seed continues from its checkpoint."""
    _set_seeds(project, [0, 1])
    # Long enough to be interrupted; by the file, so that no folder apart is used.
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["trainer"]["epochs"] = 40
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    split_seeds()
    command = [sys.executable, "-m", "avsl.cli", "train", "--seeds", "framework=supervised"]
    layouts = [Layout.of(compose(["framework=supervised", f"seed={seed}"])) for seed in (0, 1)]
    running = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while running.poll() is None and not all(layout.checkpoint.exists() for layout in layouts):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    printed, _ = running.communicate()
    assert running.returncode == 128 + signal.SIGTERM, printed
    assert "worker died" not in printed
    assert not any(RunRecord.exists(layout.train) for layout in layouts)
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("continuing from") == 2
    assert [RunRecord.load(layout.train).seed for layout in layouts] == [0, 1]
