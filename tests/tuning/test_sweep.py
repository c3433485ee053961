"""Whole sweeps on real Ray and a real MLflow store, what may befall them included."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from ray.cluster_utils import Cluster
from tests.fixtures.messages import facts, says

from avsl.cluster import ClusterError
from avsl.config.compose import compose
from avsl.config.models import TrainerConfig
from avsl.data.splits import Split
from avsl.frameworks import FRAMEWORKS
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.registry.rules import model_name
from avsl.registry.versions import CHAMPION
from avsl.stages.prepare import split
from avsl.stages.train import train
from avsl.storage import StorageError, download
from avsl.tracking.store import Store, open_store
from avsl.training.errors import TrainingError
from avsl.training.loop import identity
from avsl.tuning.records import Records
from avsl.tuning.study import SweepError
from avsl.tuning.sweep import sweep

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).parents[2] / "pipelines" / "sweep.py"


def _search(project: Path, ratio: float) -> Path:
    return project / "outputs" / "sweep" / "small" / "synthetic" / "search" / str(ratio)


def _result(project: Path, ratio: float = 0.5) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_search(project, ratio) / "result.json").read_text())
    return found


def _wait(what: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.1)


def _store(project: Path) -> Store:
    config = compose([], project)
    return open_store(config.tracking, project / "outputs")


def _runs(store: Store, kind: str) -> list[Any]:
    experiment = store.client.get_experiment_by_name("avsl-synthetic")
    assert experiment
    return list(store.client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def _begun(trial: Path) -> bool:
    """Whether a trial has a checkpoint."""
    return any(trial.glob("*/state/*/*/*/last.ckpt"))


def _kill_with_all_it_started(process: subprocess.Popen[str]) -> None:
    """The driver first, so that it can end nothing; then what Ray leaves behind, by its ids."""
    orphans = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(orphans, timeout=30)
    for orphan in alive:
        orphan.kill()
    psutil.wait_procs(alive)


@dataclass(frozen=True)
class _Interrupted:
    """A sweep that got SIGTERM, was killed when it had resumed, and ended in a third session.

    Attributes:
        project: where it ran.
        code: exit code after SIGTERM.
        log: what the first session printed.
        alive: the processes that it left behind.
        kept: the result that it left.
        finished: the finished trainings at the kill.
    """

    project: Path
    code: int
    log: str
    alive: list[psutil.Process]
    kept: dict[str, Any]
    finished: dict[Path, dict[str, Any]]

    @property
    def store(self) -> Store:
        return _store(self.project)

    @property
    def result(self) -> dict[str, Any]:
        return _result(self.project)

    @property
    def best(self) -> dict[str, Any]:
        found: dict[str, Any] = self.result["trials"][self.result["best"]]
        return found


def _finished(project: Path) -> dict[Path, dict[str, Any]]:
    trials = (_search(project, 0.5) / "trials").glob("*/synthetic/train/0.5/*/*/run.json")
    return {path: json.loads(path.read_text()) for path in trials}


@pytest.fixture(scope="module")
def interrupted(make_project: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> _Interrupted:
    """The sweep of this module's first tests."""
    project, log = make_project(), tmp_path_factory.mktemp("log") / "log"

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(_SCRIPT), "tune=small", "tune.apply=true", "tune.scheduler=null", *more]
        unset = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
        environment = {key: value for key, value in os.environ.items() if key not in unset}
        environment |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        with log.open("a") as out:
            # A separate session, like that of a terminal's foreground job.
            return subprocess.Popen(
                command, cwd=project, env=environment, stdout=out, stderr=out, text=True, start_new_session=True
            )

    def completed() -> int:
        # As the driver logs it, a moment after the training's files are there.
        return log.read_text().count(": complete, ")

    def mid_way(driver: subprocess.Popen[str], more_than: int) -> bool:
        assert driver.poll() is None, log.read_text()
        state = (_search(project, 0.5) / "trials").glob("*/synthetic/state/0.5/*/*/last.ckpt")
        return completed() > more_than and any(state)

    driver = start()
    _wait(lambda: mid_way(driver, 0))
    started = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGTERM)
    code = driver.wait(240)
    first, kept, earlier = log.read_text(), _result(project), completed()
    _, alive = psutil.wait_procs(started, timeout=30)

    driver = start("tune.resume=true")
    _wait(lambda: mid_way(driver, earlier))
    finished = _finished(project)
    _kill_with_all_it_started(driver)
    state = [path for path in (_search(project, 0.5) / "ray").rglob("*") if path.is_file()]
    assert state
    for path in state:
        path.write_bytes(b"")
    assert start("tune.resume=true").wait(600) == 0, log.read_text()
    return _Interrupted(project, code, first, alive, kept, finished)


def test_sigterm_ends_a_sweep_with_a_sentence_and_its_state_kept(interrupted: _Interrupted) -> None:
    """With a code that is not 0, without a process left behind, and without a champion."""
    assert interrupted.code == 128 + signal.SIGTERM, interrupted.log
    assert "stack trace" not in interrupted.log.lower()
    assert not interrupted.alive, "SIGTERM leaves processes behind"
    assert says(interrupted.log, "tune.resume=true")
    assert interrupted.kept["best"] in {trial["number"] for trial in interrupted.kept["trials"]}
    assert "registry" not in interrupted.kept


def test_a_killed_sweep_repeats_nothing_that_was_finished(interrupted: _Interrupted) -> None:
    """It resumes from its study and ignores what the kill leaves of Ray's state."""
    assert len(interrupted.finished) < 5
    trials = interrupted.result["trials"]
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "complete") for number in range(5)]
    after = _finished(interrupted.project)
    for path, content in interrupted.finished.items():
        assert {**content, "run_id": ""} == {**after[path], "run_id": ""}, "a finished trial was trained again"
    assert interrupted.best["score"] == max(trial["score"] for trial in trials)


def test_mlflow_has_a_run_of_every_trial_below_one_of_the_sweep(interrupted: _Interrupted) -> None:
    """With scores, settings, epochs, the best score so far, and pictures."""
    store, result = interrupted.store, interrupted.result
    assert not result["unwritten_in_mlflow"]
    (parent,) = _runs(store, "sweep")
    children = _runs(store, "trial")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    recorded = {run.info.run_id: run for run in children}
    for trial in result["trials"]:
        run = recorded[trial["run_id"]]
        assert run.data.tags["state"] == "complete"
        assert run.data.metrics["validation/ciou"] == trial["score"]
        epochs = store.client.get_metric_history(trial["run_id"], "val/ciou")
        assert sorted(point.step for point in epochs) == [1, 2, 3, 4]
        assert float(run.data.params["trainer.learning_rate"]) == trial["values"]["trainer.learning_rate"]
    curve = store.client.get_metric_history(parent.info.run_id, "best/ciou")
    assert [point.value for point in sorted(curve, key=lambda point: point.step)][-1] == interrupted.best["score"]
    assert len(curve) == 5
    shown = {artifact.path for artifact in store.client.list_artifacts(parent.info.run_id)}
    assert "result.json" in shown
    tried = [trial["framework"] for trial in result["trials"]]
    for framework in {name for name in tried if tried.count(name) > 1}:
        assert {f"{framework}-{plot}.png" for plot in ("history", "importance", "parallel", "slice")} <= shown


def test_the_winner_is_champion_and_params_train_it_again_the_same(
    interrupted: _Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sweep's settings params.yaml gets those of the winner, at its label ratio; its comments stay."""
    best, result = interrupted.best, interrupted.result
    champion = interrupted.store.client.get_model_version_by_alias(model_name("synthetic", 0.5), CHAMPION)
    assert champion.tags["run_id"] == best["run_id"]
    assert float(champion.tags["validation_score"]) == best["score"]
    text = (interrupted.project / "params.yaml").read_text()
    assert all(comment in text for comment in ("# Every comment of this file", "# is kept.", "# so is this one"))
    tuned = yaml.safe_load(text)["tuned"]
    assert list(tuned) == [best["framework"]]
    assert list(tuned[best["framework"]]) == ["r50"]

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(interrupted.project)
    asked = [f"framework={best['framework']}"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        split(asked)
        train(asked)
    finally:
        torch.set_num_threads(threads)
    trained = RunRecord.load(Layout.of(compose(asked)).train)
    assert trained.validation is not None
    assert trained.validation.ciou == best["score"]
    trials = _search(interrupted.project, 0.5) / "trials"
    winner = RunRecord.load(Layout.of(compose([*asked, f"root={trials / str(best['number'])}"])).train)
    assert trained.model_hash == winner.model_hash
    words = shlex.split(result["reproduce"])
    assert words[:2] == ["avsl", "run"]
    assert identity(compose(words[2:]), Split.load(Layout.of(compose(asked)).split)) == winner.identity
    assert compose([*asked, "split.label_ratio=0.25"]).trainer.learning_rate == 0.003, "another ratio is not tuned"


def _kill_worker(killed: list[int]) -> bool:
    """Kill the worker of a trial that is not among these, and add it; its node's agents must live."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::ImplicitFunc") and process.pid not in killed:
            killed.append(process.pid)
            process.kill()
            return True
    return False


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A Ray cluster of a head without cores; each test adds the nodes it needs."""
    quiet = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    yield cluster
    cluster.shutdown()


def _node(cluster: Cluster, gpus: int = 0) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=80 * 2**20)


def test_two_nodes_run_trials_and_one_of_them_dies(project: Path, nodes: Cluster) -> None:
    """Its trial continues on another node without a loss; each label ratio has its own winner."""
    first, second = _node(nodes), _node(nodes)
    ids = {first.node_id, second.node_id}
    trials = _search(project, 0.25) / "trials"

    def kill_one() -> None:
        _wait(lambda: len(list(trials.glob("*/synthetic/state/0.25/*/*/last.ckpt"))) >= 2)
        nodes.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    # As many cores as there were: the sweep must not wait for what is gone.
    asked = ["tune=small", "framework=dmt,mean_teacher", "tune.trials=3", "trainer.epochs=8"]
    sweep([*asked, "split.label_ratio=0.25,0.5", f"tune.address={nodes.address}", "tune.scheduler=null"])
    killer.join()
    for ratio in (0.25, 0.5):
        result = _result(project, ratio)
        assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
        assert says(result["registry"], f"avsl-synthetic-ratio-{ratio} version 1 promoted")
    moved = [trial for trial in _result(project, 0.25)["trials"] if trial["retries"]]
    assert len(moved) == 1
    assert set(moved[0]["nodes"]) <= ids
    assert {node for trial in _result(project, 0.25)["trials"] for node in trial["nodes"]} == ids
    nodes.remove_node(first)


def _write_search_that_fails(project: Path, frameworks: Sequence[str]) -> None:
    """Make a search of which the first two trials, of the defaults, are sound.

    Of the others, each value but the first of its key makes a trial fail; nothing else is searched.
    """
    values = {"model.dim": [8, 10**15], "trainer.learning_rate": [0.003, 1e30], "trainer.accelerator": ["cpu", "gpu"]}
    spaces: dict[str, dict[str, Any]] = {"trainer": dict.fromkeys(TrainerConfig.SPACE)}
    for key, choices in values.items():
        section, name = key.split(".")
        spaces.setdefault(section, {})[name] = {"kind": "categorical", "values": choices}
    tune = {
        "name": "small",
        "trials": 5,
        "seed": 8,
        "startup": 99,
        "retries": 1,
        "scheduler": None,
        "spaces": {"common": spaces, **{name: dict.fromkeys(FRAMEWORKS[name][1].SPACE) for name in frameworks}},
    }
    (project / "conf" / "tune" / "small.yaml").write_text(yaml.safe_dump(tune))


def _error_of(values: Mapping[str, Any]) -> str:
    """The error with which a trial of such a search fails; empty where it does not."""
    if values["model.dim"] == 10**15:
        return "RuntimeError"
    if values["trainer.accelerator"] == "gpu" and not torch.cuda.is_available():
        return "MisconfigurationException"
    return "TrainingError" if values["trainer.learning_rate"] == 1e30 else ""


def test_trials_that_fail_or_lose_their_worker_or_mlflow_do_not_stop_a_sweep(project: Path, nodes: Cluster) -> None:
    """Out of memory, not finite, raising: failed with the reason; a killed worker's trial is retried and counted.

    A trial whose workers are killed each time, as by a system without memory, has failed with that as its reason.
    MLflow does not answer meanwhile; what it misses is listed, and written by the next session.
    """
    node = _node(nodes)
    competing = ("mean_teacher", "pseudo_label")
    _write_search_that_fails(project, competing)
    asked = ["tune=small", f"framework={','.join(competing)}", f"tune.address={nodes.address}"]
    killed: list[int] = []

    def kill_workers() -> None:
        for trial in (_search(project, 0.5) / "trials" / number for number in ("0", "1")):
            _wait(partial(_begun, trial))
            assert _kill_worker(killed)
        _wait(lambda: _kill_worker(killed))  # the second trial's next one too, before it has done anything

    killer = threading.Thread(target=kill_workers, daemon=True)
    killer.start()
    sweep([*asked, "tracking.uri=http://127.0.0.1:9"])
    killer.join()
    assert len(killed) == 3
    result = _result(project)
    trials = {trial["number"]: trial for trial in result["trials"]}
    assert len(trials) == 5
    assert [(trials[k]["state"], trials[k]["retries"]) for k in (0, 1)] == [("complete", 1), ("failed", 1)]
    assert says(trials[1]["reason"], "worker died 2")
    errors = {number: _error_of(trials[number]["values"]) for number in (2, 3, 4)}
    for number, error in errors.items():
        assert trials[number]["state"] == ("failed" if error else "complete"), trials[number]["reason"]
        assert (trials[number]["reason"] or "").startswith(error)
    assert {"RuntimeError", "TrainingError"} <= set(errors.values())
    assert result["unwritten_in_mlflow"] == list(trials)
    assert result["registry"].startswith("not offered: ")

    sweep([*asked, "tune.resume=true"])
    result = _result(project)
    assert not result["unwritten_in_mlflow"]
    assert "version 1 promoted" in result["registry"]
    runs = {int(run.data.tags["trial"]): run for run in _runs(_store(project), "trial")}
    assert {number: run.data.tags["state"] for number, run in runs.items()} == {
        number: trial["state"] for number, trial in trials.items()
    }
    for number in (number for number, trial in trials.items() if trial["state"] == "failed"):
        assert runs[number].info.status == "FAILED"
        assert runs[number].data.tags["stop_reason"] == trials[number]["reason"]
    nodes.remove_node(node)


@pytest.mark.parametrize(
    "key", ["framework.dmt.warmup_steps", "framework.xpl.warmup_steps", "objective.fnac.warmup_steps"]
)
def test_a_warm_up_that_outlasts_a_trial_is_refused_before_the_first(
    key: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any framework that competes, and of the objective."""
    monkeypatch.setattr("avsl.tuning.sweep.cluster", lambda *_, **__: nullcontext())
    with pytest.raises(TrainingError, match=facts(key, 200)):
        sweep(["tune=small", f"objective={'fnac' if 'fnac' in key else 'ezvsl'}", f"{key}=200"])
    assert not list(project.rglob("study.db"))


def test_a_cluster_that_is_not_there_is_told_at_once(project: Path) -> None:
    """By its address; Ray itself would go on trying."""
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9"):
        with pytest.raises(ClusterError, match=facts(address)):
            sweep(["tune=small", "framework=mean_teacher", f"tune.address='{address}'"])
    assert not _search(project, 0.5).exists()


def test_a_worker_that_dies_after_its_last_word_changes_nothing(
    project: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial has told how it ended; that Ray starts it once more neither counts nor ends the sweep."""
    node = _node(nodes)
    changed, killed = Records.changed, list[int]()

    def killing(self: Records, number: int) -> None:
        changed(self, number)
        # Ray waits with the next look at the trial until this is over.
        if not killed and any(_search(project, 0.5).glob("trials/*/synthetic/train/0.5/*/*/run.json")):
            assert _kill_worker(killed)

    monkeypatch.setattr(Records, "changed", killing)
    asked = ["tune=small", "framework=mean_teacher", "tune.trials=2", "tune.scheduler=null"]
    # Pseudo-labels start within the only epoch.
    asked += ["trainer.epochs=1", "framework.mean_teacher.warmup_steps=0.5"]
    sweep([*asked, f"tune.address={nodes.address}"])
    assert len(killed) == 1
    trials = _result(project)["trials"]
    assert [(trial["state"], trial["retries"]) for trial in trials] == [("complete", 0)] * 2
    nodes.remove_node(node)


def test_a_label_ratio_without_a_winner_does_not_stop_the_others(project: Path, nodes: Cluster) -> None:
    """It is told at the end; a second session begins what the first had not, and is told of what there is at once."""
    tune = {
        "name": "small",
        "trials": 1,
        "scheduler": None,
        "spaces": {"common": {"trainer": {"learning_rate": {"kind": "categorical", "values": [0.003, 1e30]}}}},
    }
    (project / "conf" / "tune" / "small.yaml").write_text(yaml.safe_dump(tune))
    tuned = {"mean_teacher": {"r25": {"trainer": {"learning_rate": 1e30}}}}
    with (project / "params.yaml").open("a") as file:
        file.write(yaml.safe_dump({"tuned": tuned}))
    asked = ["tune=small", "framework=mean_teacher", f"tune.address={nodes.address}"]
    # Pseudo-labels start within the only epoch.
    asked += ["trainer.epochs=1", "framework.mean_teacher.warmup_steps=0.5"]
    with pytest.raises(SweepError, match=facts("tune.resume")):
        sweep([*asked, "split.label_ratio=0.25,0.5", "tune.resume=true"])
    node = _node(nodes)
    with pytest.raises(SweepError, match=facts("0.25 1 TrainingError")):
        sweep([*asked, "split.label_ratio=0.25,0.5"])
    assert _result(project, 0.25)["trials"][0]["state"] == "failed"
    assert "version 1 promoted" in _result(project, 0.5)["registry"]
    with pytest.raises(SweepError, match=facts("0.5 tune.resume=true")):
        sweep([*asked, "split.label_ratio=0.75,0.5"])
    assert not _search(project, 0.75).exists()
    sweep([*asked, "split.label_ratio=0.75,0.5", "tune.resume=true"])
    assert [trial["state"] for trial in _result(project, 0.75)["trials"]] == ["complete"]
    assert _result(project, 0.5)["best"] == 0
    nodes.remove_node(node)


def test_a_search_ends_with_its_time_and_goes_on_and_stores_what_it_found(
    project: Path, nodes: Cluster, bucket: str, tmp_path: Path
) -> None:
    """A trial takes a share of a GPU (one by name, as none is needed to count); what no node has is not waited for."""
    asked = ["tune=small", "framework=mean_teacher", "tune.trials=1", f"tune.address={nodes.address}"]
    asked += ["tune.resources.gpu=0.5", "trainer.accelerator=cpu"]
    address = f"s3://{bucket}/searches"
    with pytest.raises(ClusterError, match=facts("tune.resources.cpu 1 tune.resources.gpu 0.5")):
        sweep(asked)
    node = _node(nodes, gpus=1)
    with pytest.raises(StorageError, match=facts("'absent'")):
        sweep([*asked, "tune.results=s3://absent"])
    asked += ["tune.resume=true", f"tune.results={address}"]
    with pytest.raises(SweepError, match=facts("trials time")):
        sweep([*asked, "tune.time_budget=0.01s"])
    split(["split.seed=1"])
    current = Layout.of(compose([], project)).split
    current.parent.mkdir(parents=True)
    Layout.of(compose(["split.seed=1"], project)).split.rename(current)
    sweep(asked)
    (trial,) = _result(project)["trials"]
    assert trial["state"] == "complete"
    assert says(_result(project)["registry"], "not offered split")
    download(address, tmp_path / "fetched")
    stored = {path.name: path for path in (tmp_path / "fetched" / "synthetic" / "search" / "0.5").rglob("*")}
    assert json.loads(stored["result.json"].read_text()) == _result(project)
    assert json.loads(stored["run.json"].read_text())["validation"]["ciou"] == trial["score"]
    assert {"study.db", "model.safetensors"} <= stored.keys()
    assert not {"last.ckpt", "prepared", "study.lock"} & stored.keys()
    nodes.remove_node(node)


def test_the_best_trials_are_confirmed_with_the_seeds_of_the_matrix(project: Path, nodes: Cluster) -> None:
    """The best mean wins and is registered with all its seeds; a session that resumes trains none of them again."""
    with (project / "params.yaml").open("a") as file:
        file.write(yaml.safe_dump({"matrix": {"seeds": [0, 1]}}))
    node = _node(nodes)
    asked = ["tune=small", "framework=mean_teacher", "tune.trials=3", "tune.confirm=2", "tune.scheduler=null"]
    asked += [f"tune.address={nodes.address}", "trainer.epochs=2"]
    sweep(asked)
    result = _result(project)
    scores = {trial["number"]: trial["score"] for trial in result["trials"]}
    confirmed = {trial["trial"]: trial for trial in result["confirmed"]}
    assert sorted(confirmed) == sorted(sorted(scores, key=lambda number: (-scores[number], number))[:2])
    trained: dict[Path, RunRecord] = {}
    for number, trial in confirmed.items():
        folder = _search(project, 0.5) / "trials" / str(number) / "synthetic" / "train" / "0.5" / "mean_teacher-ezvsl"
        trained |= {folder / seed: RunRecord.load(folder / seed) for seed in ("0", "1")}
        ciou = [run.validation.ciou for path, run in trained.items() if path.parent == folder and run.validation]
        assert trial["scores"] == {"0": ciou[0], "1": ciou[1]}
        assert ciou[0] == scores[number]
        assert trial["mean"] == pytest.approx(sum(ciou) / 2)
        assert trial["luck"] == pytest.approx(ciou[0] - ciou[1])
        assert trained[folder / "0"].split_hash != trained[folder / "1"].split_hash
    assert confirmed[result["best"]]["mean"] == max(trial["mean"] for trial in confirmed.values())
    assert says(result["registry"], "version 1 promoted", "2 seeds")
    (run,) = _runs(_store(project), "seed")
    assert (run.data.tags["trial"], run.data.tags["seed"]) == (str(result["best"]), "1")
    assert run.data.metrics["validation/ciou"] == confirmed[result["best"]]["scores"]["1"]
    means = {r.data.tags["trial"]: r.data.metrics.get("seeds/ciou") for r in _runs(_store(project), "trial")}
    assert {int(k): mean for k, mean in means.items() if mean is not None} == {
        number: trial["mean"] for number, trial in confirmed.items()
    }
    written = {path: (path / "model" / "model.safetensors").stat().st_mtime_ns for path in trained}
    sweep([*asked, "tune.resume=true"])
    assert _result(project)["confirmed"] == result["confirmed"]
    assert {path: (path / "model" / "model.safetensors").stat().st_mtime_ns for path in trained} == written
    nodes.remove_node(node)
