"""The DAG: what its stages depend on, and what `dvc repro` does with a small copy of the project."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import psutil
import pytest
import soundfile
import yaml
from PIL import Image
from tests.fixtures.messages import says
from tests.fixtures.project import MODEL

from avsl.build import DECISIVE
from avsl.cli import STEPS
from avsl.data.datasets import DATASETS
from avsl.frameworks import FRAMEWORKS
from avsl.objectives import OBJECTIVES
from avsl.registry.rules import model_name
from avsl.registry.versions import CHAMPION
from avsl.stages.evaluate import evaluate
from avsl.stages.register import register
from avsl.stages.train import train
from avsl.tracking.store import TrackingConfig, open_store

_PROJECT = Path(__file__).parents[2]

# --- What is declared ----------------------------------------------------------------------------------------

# Modules that no stage needs to declare, and through which no dependency is looked for.
_ANYWHERE = {
    "avsl": "asked for its folder alone",
    "avsl.config.compose": "checks what `params` and conf/ say, which are declared",
    "avsl.config.models": "checks what `params` and conf/ say, which are declared",
    "avsl.config.plugins": "imports modules of the project's own, whose hash trainings carry",
    "avsl.config.params": "checks what `params` and conf/ say, which are declared",
    "avsl.schema": "checks settings",
    "avsl.distributed": "gathers what processes that train together have",
    "avsl.types": "names what passes between modules",
    "avsl.console": "shows progress and tables",
    "avsl.errors": "names an error",
    "avsl.files": "writes what it is given",
    "avsl.tracking.store": "opens the MLflow store, decides nothing",
    "avsl.storage": "fetches bytes, checked against their checksums",
    "avsl.stages.seeds": "calls a step for each seed",
    "avsl.cluster": "runs tasks side by side",
    "avsl.paths": "says where files lie; dvc.yaml states the same paths",
    "avsl.data.datasets": "names all data sets; a stage depends on its own",
    "avsl.frameworks": "names all frameworks; a stage depends on its own",
    "avsl.objectives": "names all objectives; a stage depends on its own",
}
_ASIDE: dict[str, dict[str, str]] = {
    "source": {},
    "prepare": {"avsl.data.splits": "shares the module of the step `split`"},
    "split": {},
    "start": {"avsl.tracking.runs": "records, decides nothing"},
    "train": {
        "avsl.stages.prepare": "opens what the stages before it made",
        "avsl.data.splits": "reads the split, which carries its own hash",
        "avsl.tracking.runs": "records, decides nothing",
    },
    "evaluate": {
        "avsl.frameworks.branch": "makes the students of a training, of which there is none here",
        "avsl.stages.prepare": "opens what the stages before it made",
        "avsl.data.splits": "reads the split, which carries its own hash",
        "avsl.tracking.cells": "records, decides nothing",
        "avsl.tracking.runs": "records, decides nothing",
    },
    "register": {
        "avsl.evaluation.scoring": "gives the metric's name, which the evaluations carry",
        "avsl.registry.card": "describes a version, decides nothing",
        "avsl.registry.packaging": "a version that exists is never packed again",
        "avsl.tracking.runs": "finds a candidate's run in this store, decides nothing",
    },
    "report": {
        "avsl.data.prepared.preparation": "names the files of the quarantine and of the leaks",
        "avsl.data.splits": "reads the splits, which carry their own hashes",
        "avsl.tracking.cells": "records, decides nothing",
        "avsl.tracking.runs": "records, decides nothing",
    },
}


def _stages() -> dict[str, dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = yaml.safe_load((_PROJECT / "dvc.yaml").read_text())["stages"]
    return stages


def _resolved(dependency: str, chosen: Mapping[str, str]) -> str:
    """A dependency with what ``chosen`` says in the place of ``${...}``."""
    for key, value in chosen.items():
        dependency = dependency.replace(f"${{{key}}}", value)
    return dependency


def _script(stage: Mapping[str, Any]) -> str:
    """The name of the script in pipelines/ that a stage runs."""
    found = re.match(r"python pipelines/(\w+)\.py", stage["cmd"])
    assert found
    return found[1]


def _imports(script: str) -> set[str]:
    """The module whose function a script in pipelines/ calls, as the command of its name does."""
    assert f'main(["{script}"' in (_PROJECT / "pipelines" / f"{script}.py").read_text()
    return {STEPS[script][1].partition(":")[0]}


def _source(module: str) -> Path:
    path = Path("src", *module.split("."))
    return path / "__init__.py" if (_PROJECT / path).is_dir() else path.with_suffix(".py")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Which module imports which."""
    # grimp's cache keeps an old file's imports, and with them that a newer module was not there.
    return grimp.build_graph("avsl", cache_dir=None)


@pytest.mark.parametrize("name", _stages())
def test_what_decides_a_stage_is_declared(name: str, graph: grimp.ImportGraph) -> None:
    """Every module that a stage's script reaches is among its dependencies, or excepted above with its reason."""
    stage = _stages()[name]
    script = _script(stage)
    excepted = _ANYWHERE | _ASIDE[script]
    frameworks = FRAMEWORKS if stage.get("matrix", {}).get("framework") != ["supervised"] else ["supervised"]
    for data, framework, objective in product(DATASETS, frameworks, OBJECTIVES):
        chosen = {"data.name": data, "item.framework": framework, "item.objective": objective}
        declared = {Path(_resolved(dependency, chosen)) for dependency in stage["deps"]}
        assert Path("pipelines", f"{script}.py") in declared
        todo = _imports(script)
        if script == "prepare":
            todo |= {DATASETS[data][1].__module__, "avsl.data.prepared.preparation"}
        if script == "start":
            todo.add(OBJECTIVES[objective][1].__module__)
        if script == "train":
            todo |= {FRAMEWORKS[framework][1].__module__, OBJECTIVES[objective][1].__module__}
        reached: set[str] = set()
        while todo:
            module = todo.pop()
            reached.add(module)
            if module not in excepted:
                todo |= graph.find_modules_directly_imported_by(module) - reached
        missing = {
            str(path) for module in reached - set(excepted) if not declared & {path := _source(module), *path.parents}
        }
        assert not missing, f"stage {name} with {chosen} lacks {sorted(missing)}"
        stale = set(_ASIDE[script]) - reached
        assert not stale, f"stage {name} no longer reaches {sorted(stale)}"


def test_declared_sources_exist() -> None:
    """With params.yaml's choices every declared source file is there, and each choice's settings decide its stages."""
    params = yaml.safe_load((_PROJECT / "params.yaml").read_text())
    for name, stage in _stages().items():
        for framework, objective, dependency in product(FRAMEWORKS, OBJECTIVES, stage["deps"]):
            chosen = {f"{section}.name": params[section]["name"] for section in ("data", "model", "trainer")}
            path = _resolved(dependency, chosen | {"item.framework": framework, "item.objective": objective})
            if not path.startswith("outputs/"):
                assert (_PROJECT / path).exists(), f"stage {name}: {path}"
    for stage in (_stages()["train"], _stages()["train_full"]):
        code = {dependency.removeprefix("src/avsl/") for dependency in stage["deps"] if "src/avsl/" in dependency}
        # conf/ is in the settings, the methods' own files are added, and what a record holds decides no result.
        assert {name for name in code if not name.startswith("config/") and "$" not in name} - {"records.py"} <= set(
            DECISIVE
        )
        own = {"matrix.seeds", "split", "model", "objective.${item.objective}", "augment", "start", "trainer"}
        assert own <= set(stage["params"])


def test_what_sweeps_find_and_what_is_chosen_is_declared() -> None:
    """params.yaml has a place for every framework and objective, as DVC takes a key that is not there for missing."""
    params = yaml.safe_load((_PROJECT / "params.yaml").read_text())
    assert set(params["tuned"]) == set(FRAMEWORKS)
    assert set(params["objective"]) == {"name", *OBJECTIVES}
    assert "tuned.${item.framework}" in _stages()["train"]["params"]


# --- What happens --------------------------------------------------------------------------------------------

_RATIO = 0.03
# Four steps an epoch; the first checkpoint comes so early that a training can be killed after it.
_PARAMS: dict[str, Any] = {
    "matrix": {
        **{"seeds": [0], "frameworks": ["supervised", "dmt"], "objectives": ["ezvsl"]},
        **{"ratios": [_RATIO], "ceilings": [1.0]},
    },
    "data": {
        "name": "synthetic",
        "synthetic": {
            "image_size": 32,
            "duration_s": 0.25,
            **{"n_train": 32, "n_validation": 6, "n_test": 6, "n_offscreen": 3, "n_swap": 5},
            **{"n_small": 0, "n_duet": 0, "n_unheard": 0},
        },
    },
    "model": {"name": "tiny"},
    "framework": {
        "name": "dmt",
        "supervised": {"contrastive_weight": 1.0},
        "dmt": {"delta": 0.05, "tau": 0.0, "warmup_steps": 2},
    },
    "start": {"epochs": 2},
    "trainer": {
        "name": "default",
        "epochs": 10,
        "batch_size": 8,
        "labeled_batch_size": 4,
        "checkpoint_every": 3,
        "precision": "32-true",
    },
    "evaluate": {"gallery": 2},
    "tracking": {"system_metrics": False},
}
_ALL = {
    *{
        "prepare",
        f"split@{_RATIO}",
        "split_full@1.0",
        "start@ezvsl",
        "train_full@supervised-ezvsl-1.0",
        "evaluate_full@supervised-ezvsl-1.0",
        "register_full@1.0",
        "report",
    },
    *{f"{stage}@{framework}-ezvsl-{_RATIO}" for stage in ("train", "evaluate") for framework in ("supervised", "dmt")},
    f"register@{_RATIO}",
}
# Looks at the data set's folder, every time; where nothing has changed there, nothing follows from it.
_ALWAYS = {"source"}
_AFTER_DMT = {f"train@dmt-ezvsl-{_RATIO}", f"evaluate@dmt-ezvsl-{_RATIO}", f"register@{_RATIO}", "report"}


class _Copy:
    """A small copy of the project, with git and DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "outputs" / "synthetic"
        names = ("MLFLOW_TRACKING_URI", "COLUMNS")
        self.environment = {key: value for key, value in os.environ.items() if key not in names} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder.with_name("site")),
            **{f"GIT_{who}_NAME": "nobody" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "nobody@example.org" for who in ("AUTHOR", "COMMITTER")},
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in the project; its output comes through a pipe."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *command: str) -> str:
        """Run a command in the project; returns what it printed."""
        done = self.start(*command)
        printed, _ = done.communicate()
        assert done.returncode == 0, printed
        return printed

    def commit(self) -> None:
        """Commit all changes."""
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", "state")

    def params(self) -> dict[str, Any]:
        """What params.yaml says."""
        params: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text())
        return params

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Replace params.yaml."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(dict(params)))

    def set_delta(self, delta: float) -> None:
        """Edit DMT's δ in params.yaml."""
        params = self.params()
        params["framework"]["dmt"]["delta"] = delta
        self.set_params(params)

    def figures(self) -> dict[str, Any]:
        """DMT's figures, less the time that its training took and its run."""
        path = self.base / "evaluate" / str(_RATIO) / "dmt-ezvsl" / "0" / "metrics.json"
        figures: dict[str, Any] = json.loads(path.read_text())
        del figures["train_seconds"], figures["run_id"]
        return figures


def _ran(printed: str) -> set[str]:
    """The stages that `dvc repro` ran, by what it printed, less the one that always runs."""
    ran = set(re.findall(r"^Running stage '(.+)':$", printed, re.MULTILINE))
    assert ran >= _ALWAYS
    return ran - _ALWAYS


def _changed(copy: _Copy) -> set[str]:
    """The stages that `dvc repro` would run, likewise."""
    changed = set(json.loads(copy("dvc", "status", "--json")))
    assert changed >= _ALWAYS
    return changed - _ALWAYS


def _copied(folder: Path, params: Mapping[str, Any]) -> _Copy:
    """The project's copy with other values in params.yaml, committed."""
    (folder / ".dvc" / "plots").mkdir(parents=True)
    for name in ("src", "pipelines"):
        shutil.copytree(_PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots/by_model.json"):
        shutil.copyfile(_PROJECT / name, folder / name)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "tiny.yaml").write_text(yaml.safe_dump(MODEL))
    made = _Copy(folder)
    made.set_params(yaml.safe_load((_PROJECT / "params.yaml").read_text()) | params)
    made("git", "init", "--quiet")
    made.commit()
    return made


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> _Copy:
    """The project's copy, reproduced once and committed."""
    made = _copied(tmp_path_factory.mktemp("dag") / "project", _PARAMS)
    assert _ran(made("dvc", "repro")) == _ALL
    made.commit()
    return made


@contextlib.contextmanager
def _inside(copy: _Copy) -> Iterator[None]:
    """This process works in the copy."""
    with contextlib.chdir(copy.folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


class TestRepro:
    """In this order on one copy, as each `dvc repro` costs; each test leaves a reproduced project."""

    pytestmark = pytest.mark.slow

    def test_a_second_repro_does_nothing(self, copy: _Copy) -> None:
        """Nothing has changed, so nothing runs, and git agrees."""
        assert not _ran(copy("dvc", "repro"))
        assert not copy("git", "status", "--porcelain")

    def test_metrics_and_plots_are_shown(self, copy: _Copy) -> None:
        """A dozen metrics for each cell; every epoch of every training in the color of its model; pictures."""
        shown = json.loads(copy("dvc", "metrics", "show", "--json"))[""]["data"]
        cells = [(_RATIO, "supervised"), (_RATIO, "dmt"), (1.0, "supervised")]
        files = {f"outputs/synthetic/evaluate/{ratio}/{framework}-ezvsl.json" for ratio, framework in cells}
        assert set(shown) == files
        for found in shown.values():
            assert {"threshold", "validation_ciou", "test_ciou"} <= set(found["data"])
            assert len(found["data"]) <= 12
        plots = json.loads(copy("dvc", "plots", "show", "--json"))["data"]
        ((plot,),) = (plot for path, plot in plots.items() if path.endswith(".csv"))
        assert plot["content"]["spec"]["encoding"]["color"]["field"] == "model"
        assert plot["content"]["facet"]["column"]["field"] == "label_ratio"
        pictures = {name for name in plots if name.endswith(".png")}
        assert {"outputs/synthetic/report/comparison.png", "outputs/synthetic/report/curves.png"} < pictures
        assert len(pictures) == 2 + 2 * len(cells)
        assert not copy("git", "status", "--porcelain")
        points = plot["content"]["data"]["values"]
        assert {(float(p["label_ratio"]), p["model"], int(p["epoch"])) for p in points} == {
            (*cell, epoch) for cell in cells for epoch in range(1, 11)
        }

    def test_every_ratio_has_a_champion_that_a_fresh_process_loads(self, copy: _Copy, tmp_path: Path) -> None:
        """Without pickle and away from the project, a champion takes frames and sounds to maps and boxes."""
        store = f"sqlite:///{copy.folder}/outputs/mlflow/mlflow.db"
        client = open_store(TrackingConfig(uri=store), copy.folder / "outputs").client
        for ratio in (_RATIO, 1.0):
            champion = client.get_model_version_by_alias(model_name("synthetic", ratio), CHAMPION)
            decision = json.loads((copy.base / "register" / f"{ratio}.json").read_text())
            assert (decision["action"], decision["version"]) == ("promoted", str(champion.version))
            best = max(
                json.loads(path.read_text())["validation"]["ciou"]
                for path in (copy.base / "evaluate" / str(ratio)).glob("*/*/metrics.json")
            )
            assert float(champion.tags["validation_score"]) == best
            cell = client.get_run(client.get_run(champion.tags["run_id"]).data.tags["mlflow.parentRunId"])
            assert cell.info.run_name == f"{champion.tags['framework']}-{champion.tags['objective']} {ratio}"
            assert cell.data.metrics["seeds"] == 1
        script = (
            "import json, mlflow\n"
            "model = mlflow.pyfunc.load_model('models:/avsl-synthetic-ratio-0.03@champion')\n"
            "found = model.predict(model.input_example, params={'map_size': 'frame'})\n"
            "print(json.dumps([[len(row['map']), len(row['map'][0]), row['threshold']] for row in found]))\n"
        )
        environment = copy.environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_TRACKING_URI": store}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        ((height, width, threshold),) = json.loads(done.stdout.splitlines()[-1])
        assert (height, width) == (48, 64)
        assert 0 < threshold < 1

    def test_a_second_register_adds_no_version(self, copy: _Copy) -> None:
        """Registering again keeps the champion and says so."""
        name = model_name("synthetic", _RATIO)
        client = open_store(
            TrackingConfig(uri=f"sqlite:///{copy.folder}/outputs/mlflow/mlflow.db"), copy.folder / "outputs"
        ).client
        before = [version.version for version in client.search_model_versions(f"name = '{name}'")]
        record = copy.base / "register" / f"{_RATIO}.json"
        written = record.read_bytes()
        with _inside(copy):
            register([f"split.label_ratio={_RATIO}"])
        assert [version.version for version in client.search_model_versions(f"name = '{name}'")] == before
        assert json.loads(record.read_text())["action"] == "kept"
        record.write_bytes(written)

    def test_a_new_ratio_adds_stages_and_changes_none(self, copy: _Copy) -> None:
        """Its split, trainings and evaluations are to be run; of the old stages the report alone."""
        params = copy.params()
        more = {"ratios": [_RATIO, 0.5]}
        copy.set_params(params | {"matrix": params["matrix"] | more})
        changed = _changed(copy)
        listed = set(copy("dvc", "stage", "list", "--name-only").split())
        copy.set_params(params)
        new = {f"{stage}@{f}-ezvsl-0.5" for stage in ("train", "evaluate") for f in ("supervised", "dmt")}
        new |= {"split@0.5", "register@0.5"}
        assert listed == _ALL | _ALWAYS | new
        assert new <= changed <= new | {"report"}

    def test_without_ceilings_the_rest_of_the_stages_is_there(self, copy: _Copy) -> None:
        """As for a folder whose boxes are to be compared at smaller ratios alone."""
        params = copy.params()
        copy.set_params(params | {"matrix": params["matrix"] | {"ceilings": []}})
        listed = set(copy("dvc", "stage", "list", "--name-only").split())
        copy.set_params(params)
        assert listed == {stage for stage in _ALL | _ALWAYS if "_full@" not in stage}

    def test_a_new_objective_adds_stages_and_changes_none(self, copy: _Copy) -> None:
        """Every framework is trained over it, and its ceiling; the report and the registration run again."""
        params = copy.params()
        copy.set_params(params | {"matrix": params["matrix"] | {"objectives": ["ezvsl", "fnac"]}})
        changed = _changed(copy)
        listed = set(copy("dvc", "stage", "list", "--name-only").split())
        copy.set_params(params)
        new = {f"{stage}@{f}-fnac-{_RATIO}" for stage in ("train", "evaluate") for f in ("supervised", "dmt")}
        new |= {"start@fnac", *(f"{stage}_full@supervised-fnac-1.0" for stage in ("train", "evaluate"))}
        assert listed == _ALL | _ALWAYS | new
        assert new <= changed <= new | {"report", f"register@{_RATIO}", "register_full@1.0"}

    def test_a_new_seed_trains_that_seed_alone(self, copy: _Copy) -> None:
        """The stages of a cell run; the seed that was there keeps its start, its training and its run."""
        cell = f"{{}}@dmt-ezvsl-{_RATIO}"
        folders = {name: copy.base / name for name in ("start/ezvsl", f"train/{_RATIO}/dmt-ezvsl")}

        def files(seed: int) -> dict[Path, bytes]:
            paths = (path for folder in folders.values() for path in (folder / str(seed)).rglob("*"))
            return {path: path.read_bytes() for path in paths if path.is_file()}

        params, before = copy.params(), files(0)
        copy.set_params(params | {"matrix": params["matrix"] | {"seeds": [0, 1]}})
        ran = _ran(copy("dvc", "repro", cell.format("evaluate")))
        assert ran == {f"split@{_RATIO}", "start@ezvsl", cell.format("train"), cell.format("evaluate")}
        assert files(0) == before
        assert {path.name for path in files(1)} == {path.name for path in before}
        summary = json.loads((copy.base / "evaluate" / str(_RATIO) / "dmt-ezvsl.json").read_text())
        assert summary["seeds"] == 2
        assert "test_ciou_sd" in summary
        copy.set_params(params)
        copy("dvc", "repro")
        assert files(0) == before
        assert not files(1)

    def test_one_frameworks_file_changes_its_stages_alone(self, copy: _Copy) -> None:
        """An edit of DMT's file is seen, by DMT's training only."""
        path = copy.folder / "src" / "avsl" / "frameworks" / "dmt.py"
        before = path.read_text()
        path.write_text(f"{before}# edited\n")
        changed = _changed(copy)
        path.write_text(before)
        assert changed == {f"train@dmt-ezvsl-{_RATIO}"}

    def test_another_delta_reruns_dmt_alone_and_survives_a_kill(self, copy: _Copy, tmp_path: Path) -> None:
        """Killed in training and run again, `dvc repro` goes on and ends with an undisturbed training's figures."""
        before = copy.figures()
        metric = copy.base / "evaluate" / str(_RATIO) / "dmt-ezvsl.json"
        shown_before = json.loads(metric.read_text())
        copy.set_delta(0.2)
        checkpoint = copy.base / "state" / str(_RATIO) / "dmt-ezvsl" / "0" / "last.ckpt"
        killed = copy.start("dvc", "repro")
        while killed.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        # DVC first, so that it cannot see the training fail; what it leaves behind is an orphan.
        orphans = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        for orphan in orphans:
            orphan.kill()
        psutil.wait_procs(orphans)
        killed.communicate()
        assert checkpoint.exists()

        printed = copy("dvc", "repro")
        assert _ran(printed) == _AFTER_DMT
        assert "continuing from outputs/synthetic/state" in printed
        assert not checkpoint.exists()
        after = copy.figures()
        assert after != before

        with _inside(copy):
            asked = ["framework=dmt", f"split.label_ratio={_RATIO}", f"root={tmp_path}"]
            (tmp_path / "synthetic").mkdir()
            for name in ("prepared", "split", "start"):
                (tmp_path / "synthetic" / name).symlink_to(copy.base / name)
            train(asked)
            evaluate(asked)
        undisturbed = _Copy(tmp_path)
        undisturbed.base = tmp_path / "synthetic"
        assert undisturbed.figures() == after
        weights = Path("train", str(_RATIO), "dmt-ezvsl", "0", "model", "model.safetensors")
        assert (undisturbed.base / weights).read_bytes() == (copy.base / weights).read_bytes()

        shown = json.loads(copy("dvc", "metrics", "diff", "--json"))
        changed = {path for path, values in shown.items() if values}
        # On six clips the few scores of the summary may be the same ones, as all the figures above may not.
        same = json.loads(metric.read_text()) == shown_before
        assert changed == (set() if same else {str(metric.relative_to(copy.folder))})

    def test_an_experiment_sets_delta(self, copy: _Copy) -> None:
        """`dvc exp run -S` edits params.yaml, and what depends on it runs."""
        before = copy.figures()
        copy.set_delta(0.3)
        printed = copy("dvc", "exp", "run", "--set-param", "framework.dmt.delta=0.07")
        assert copy.params()["framework"]["dmt"]["delta"] == 0.07
        assert _ran(printed) == _AFTER_DMT
        assert "Ran experiment(s): " in printed
        assert copy.figures() != before

    def test_a_second_repro_at_the_same_time_is_refused(self, copy: _Copy) -> None:
        """DVC says who holds the stage; the first ends with the weights that it would have had alone."""
        command = ("dvc", "repro", "--force", "--single-item", f"train@supervised-ezvsl-{_RATIO}")
        weights = copy.base / "train" / str(_RATIO) / "supervised-ezvsl" / "0" / "model" / "model.safetensors"
        checkpoint = copy.base / "state" / str(_RATIO) / "supervised-ezvsl" / "0" / "last.ckpt"
        before = weights.read_bytes()
        # A seed whose training is there would be kept.
        shutil.rmtree(weights.parents[1])
        first = copy.start(*command)
        while first.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        training = psutil.Process(first.pid).children(recursive=True)
        for process in training:
            process.suspend()
        second = copy.start(*command)
        printed, _ = second.communicate()
        for process in training:
            process.resume()
        ended, _ = first.communicate()
        assert second.returncode != 0
        assert "is busy, it is being blocked by" in printed
        assert f"(PID {first.pid})" in printed
        assert first.returncode == 0, ended
        assert weights.read_bytes() == before
        assert not checkpoint.exists()
        # The run that it was recorded as is another one, and that its registration and the report state.
        copy("dvc", "repro")
        assert not _changed(copy)


# --- What a changed clip does ------------------------------------------------------------------------------------


def _add_row(media: Path, name: str, k: int) -> None:
    """Write a frame of gray 10 k and a tone of 200 + 50 k Hz."""
    for folder in ("frames", "audio"):
        (media / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), 10 * k, np.uint8)).save(media / "frames" / f"{name}.png")
    wave = 0.5 * np.sin(2 * np.pi * (200 + 50 * k) * np.arange(8000) / 16000)
    soundfile.write(media / "audio" / f"{name}.flac", wave, 16000)


@pytest.mark.slow
def test_a_changed_clip_reruns_what_depends_on_it_and_the_old_version_comes_back(tmp_path: Path) -> None:
    """One shard is made again, and all stages after it run; git and DVC bring back the old one bit for bit.

    The workspace's files are links into the cache, and nothing is written through them. Without the folder nothing
    runs and nothing fails.
    """
    media = tmp_path / "media"
    rows = []
    for k in range(12):
        _add_row(media, f"s{k:02d}", k)
        rows.append({"file": f"s{k:02d}", "class": "c", "bbox": [[0.25, 0.5, 0.75, 1.0]]})
    (media / "vggss.json").write_text(json.dumps(rows))
    settings = {"root": str(media), "image_size": 32, "duration_s": 0.25, "shard_rows": 5}
    settings |= {"test_share": 0.4, "validation_share": 0.4}
    copy = _copied(tmp_path / "project", _PARAMS | {"data": {"name": "vggss", "vggss": settings}})
    copy("dvc", "config", "cache.type", "hardlink")
    prepared, split = copy.folder / "outputs" / "vggss" / "prepared", "split_full@1.0"

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in prepared.iterdir()}

    def shards() -> set[tuple[str, str]]:
        manifest = json.loads((prepared / "manifest.json").read_text())
        return {(shard["file"], shard["sha256"]) for shard in manifest["shards"]}

    assert _ran(copy("dvc", "repro", split)) == {"prepare", split}
    copy.commit()
    first, first_shards = files(), shards()
    assert (prepared / "manifest.json").stat().st_nlink == 2
    assert not _ran(copy("dvc", "repro", split))

    _add_row(media, "s05", 20)
    assert _ran(copy("dvc", "repro", "prepare")) == {"prepare"}
    assert split in _changed(copy)
    copy.commit()
    second, second_shards = files(), shards()
    assert len(second_shards) == len(first_shards) > 2
    assert len(second_shards - first_shards) == 1

    for commit, expected in (("HEAD~1", first), ("-", second)):
        copy("git", "checkout", "--quiet", commit)
        copy("dvc", "checkout", "source", "prepare")
        assert files() == expected

    _add_row(media, "s99", 21)  # unlabeled, as nobody annotated it
    assert _ran(copy("dvc", "repro", "prepare")) == {"prepare"}
    assert len(shards() - second_shards) == 1
    paths = [path for path in (copy.folder / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()]
    assert len(paths) > len(first)
    for path in paths:
        assert path.parent.name + path.name.removesuffix(".dir") == hashlib.md5(path.read_bytes()).hexdigest()

    copy.commit()
    media.rename(tmp_path / "elsewhere")
    printed = copy("dvc", "repro", "prepare")
    assert not _ran(printed)
    assert says(printed, media)
    assert not copy("git", "status", "--porcelain")


# --- What another machine gets -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_machine_pulls_all_and_rebuilds_the_registry(copy: _Copy, bucket: str, tmp_path: Path) -> None:
    """From an S3 remote: a clone has the same bytes, computes nothing, and gets the same champions, once."""
    here, there = _Copy(copy.folder), _Copy(tmp_path / "there" / "project")  # with the AWS variables
    here("dvc", "remote", "add", "--default", "store", f"s3://{bucket}/versions")
    here.commit()
    here("dvc", "push")
    there.folder.parent.mkdir()
    here("git", "clone", "--quiet", str(here.folder), str(there.folder))
    there("dvc", "pull")
    for name in ("prepared", "split", "start", "train", "evaluate", "register", "report"):
        files = [path.relative_to(here.base) for path in (here.base / name).rglob("*") if path.is_file()]
        assert files
        assert all((there.base / path).read_bytes() == (here.base / path).read_bytes() for path in files)
    assert not _ran(there("dvc", "repro"))

    here_store, there_store = (
        TrackingConfig(uri=f"sqlite:///{project.folder}/outputs/mlflow/mlflow.db") for project in (here, there)
    )
    original = open_store(here_store, here.folder / "outputs").client
    for _ in range(2):
        there("avsl", "models", "restore")
        restored = open_store(there_store, there.folder / "outputs").client
        for ratio in (_RATIO, 1.0):
            evaluated = {
                path.parent.parent.name.removesuffix("-ezvsl"): json.loads(path.read_text())["validation"]["ciou"]
                for path in (here.base / "evaluate" / str(ratio)).glob("*/*/metrics.json")
            }
            champion = restored.get_model_version_by_alias(model_name("synthetic", ratio), CHAMPION)
            framework = champion.tags["framework"]
            assert evaluated[framework] == max(evaluated.values()) == float(champion.tags["validation_score"])
            how = json.loads((here.base / "train" / str(ratio) / f"{framework}-ezvsl" / "0" / "run.json").read_text())
            assert champion.tags["model_hash"] == how["model_hash"]
            run, first = restored.get_run(champion.tags["run_id"]), original.get_run(how["run_id"])
            assert run.data.tags["restored_from"] == how["run_id"]
            assert run.data.params == first.data.params
            assert run.data.metrics == first.data.metrics
            assert len(restored.search_model_versions(f"name = '{model_name('synthetic', ratio)}'")) == 1
        (experiment,) = [found for found in restored.search_experiments() if found.name == "avsl-synthetic"]
        runs = restored.search_runs([experiment.experiment_id])
        trained = [run for run in runs if "restored_from" in run.data.tags]
        assert len(trained) == 3
        # A parent for each cell.
        parents = {run.info.run_id for run in runs} - {run.info.run_id for run in trained}
        assert {run.data.tags["mlflow.parentRunId"] for run in trained} == parents
    assert not there("git", "status", "--porcelain")
