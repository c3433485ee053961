"""The MLflow store: made once, found from anywhere in the project, brought home where its project has moved."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from tests.fixtures.messages import facts, says

from avsl.schema import ConfigError
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingConfig, TrackingError, open_store

_WORKER = """
import sys
from pathlib import Path
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import TrackingConfig, open_store
store = open_store(TrackingConfig(system_metrics=False), Path(sys.argv[1]))
tags = RunTags("dmt", "ezvsl", 0.03, int(sys.argv[2]), "d", "s", "c", "train")
with start_or_resume_run(store, "shared", f"run-{sys.argv[2]}", tags, {"seed": sys.argv[2]}) as run:
    for epoch in range(5):
        run.log_epoch({"val/ciou": epoch / 10}, epoch)
"""


@pytest.mark.slow
def test_fresh_store_survives_a_kill_and_four_processes_at_once(tmp_path: Path) -> None:
    """A process killed while it creates the tables leaves no broken store; four at once all write."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}

    def start(number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WORKER, str(tmp_path), str(number)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    database = tmp_path / "mlflow" / "mlflow.db"
    killed = start(99)
    while killed.poll() is None and not any(path.stat().st_size for path in database.parent.glob(".*.new")):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert not database.exists()

    workers = [start(number) for number in range(4)]
    for worker in workers:
        _, complaints = worker.communicate(timeout=120)
        assert worker.returncode == 0, complaints
    store = open_store(TrackingConfig(uri=f"sqlite:///{database}"), tmp_path)
    experiment = store.client.get_experiment_by_name("avsl-shared")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "mlflow" / "artifacts" / "avsl-shared").as_uri()
    runs = store.client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {f"run-{number}" for number in range(4)}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(store.client.get_metric_history(run.info.run_id, "val/ciou")) == 5


def test_environment_names_the_store_where_the_config_does_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    """Config before environment before default."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert open_store(TrackingConfig(), tmp_path).uri == store.uri
    assert not (tmp_path / "mlflow").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    assert open_store(TrackingConfig(uri=store.uri), tmp_path).uri == store.uri


def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server, a damaged database, an impossible path, an unknown key."""
    with pytest.raises(TrackingError, match=facts(f"http://127.0.0.1:{free_port}")):
        open_store(TrackingConfig(uri=f"http://127.0.0.1:{free_port}"), tmp_path)
    (tmp_path / "file").write_text("no database")
    with pytest.raises(TrackingError, match="file") as damaged:
        open_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/file"), tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=facts("mlflow.db")) as blocked:
        open_store(TrackingConfig(uri="sqlite:///file/mlflow.db"), tmp_path)
    assert "\n" not in str(damaged.value) + str(blocked.value)
    with pytest.raises(ConfigError, match=facts("tracking.url")):
        TrackingConfig.read({"url": ""}, "tracking")


@pytest.mark.parametrize(
    "address", ["http://me:{}@127.0.0.1:{}", "http://me:{}@127.0.0.1:port", "postgresql+absent://me:{}@x:{}/y"]
)
def test_the_password_in_an_address_is_not_told(address: str, tmp_path: Path, free_port: int) -> None:
    """Of a server that does not answer, an address that is none, a database without its driver."""
    with pytest.raises(TrackingError, match=r"//me:\*\*\*@") as refused:
        open_store(TrackingConfig(uri=address.format("fakeSECRET@1", free_port)), tmp_path)
    assert "SECRET" not in str(refused.value)


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, as the working directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "params.yaml").touch()
    monkeypatch.chdir(project)
    return project


def test_what_only_reads_makes_no_database(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by default nor at an address; the sentence names the database and what makes it."""
    for address in ("", "sqlite:///outputs/mlflow/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TrackingError, match=r"outputs/mlflow/mlflow\.db.*avsl train"):
            open_store(TrackingConfig(), in_project / "outputs", writes=False)
    assert sorted(path.name for path in in_project.iterdir()) == ["notebooks", "params.yaml"]


@pytest.mark.slow
def test_a_project_has_one_store(in_project: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default one, the one of a relative address, and the same from a folder below: MLflow's rule at the root."""
    database = in_project / "outputs" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copyfile(new_database, database)
    for folder in (".", "notebooks"):
        monkeypatch.chdir(in_project / folder)
        for config in (TrackingConfig(), TrackingConfig(uri="sqlite:///outputs/mlflow/mlflow.db")):
            opened = open_store(config, in_project / "outputs", writes=False)
            assert Path(opened.uri.removeprefix("sqlite:///")).samefile(database)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///outputs/mlflow/mlflow.db")
        opened = open_store(TrackingConfig(), in_project / "outputs")
        assert Path(opened.uri.removeprefix("sqlite:///")).samefile(database)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert list(in_project.rglob("*.db")) == [database]


def _artifacts_of(store: Store, run_id: str) -> Path:
    return Path(url2pathname(urlsplit(str(store.client.get_run(run_id).info.artifact_uri)).path))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copied", "moved", "linked"])
def test_artifacts_of_a_copied_or_moved_project_lie_below_it(
    how: str, tmp_path: Path, tags: RunTags, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What reads finds them and changes nothing; what writes corrects every address; both say so; a link is no move."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    here, there = tmp_path / "a b", tmp_path / "b"
    config = TrackingConfig(system_metrics=False)
    store = open_store(config, here)
    (tmp_path / "file").write_text("1")
    with start_or_resume_run(store, "synthetic", "first", tags, {}) as first:
        first.log_file(tmp_path / "file")
    kept = {path.relative_to(here): path.stat().st_mtime_ns for path in here.rglob("*") if path.name != "mlflow.db"}
    match how:
        case "copied":
            shutil.copytree(here, there)
        case "moved":
            shutil.move(here, there)
        case _:
            there.symlink_to(here)
    if how == "linked":
        open_store(config, there, writes=False)
        assert not caplog.text
    else:
        before = (there / "mlflow" / "mlflow.db").read_bytes()
        assert _artifacts_of(open_store(config, there, writes=False), first.run_id).is_relative_to(there)
        assert says(caplog.text, "restore")
        assert (there / "mlflow" / "mlflow.db").read_bytes() == before
        caplog.clear()
        open_store(config, there)
        assert len(caplog.records) == 1
        assert all(str(path.as_uri()) in caplog.text for path in (here, there))
    again = open_store(config, there, writes=False)
    (tmp_path / "file").write_text("2")
    with start_or_resume_run(again, "synthetic", "second", tags, {}) as second:
        second.log_file(tmp_path / "file")
    for run, text in ((first, "1"), (second, "2")):
        stored = _artifacts_of(again, run.run_id) / "file"
        assert stored.is_relative_to(there.resolve())
        assert stored.read_text() == text
    if how == "copied":
        assert kept == {p.relative_to(here): p.stat().st_mtime_ns for p in here.rglob("*") if p.name != "mlflow.db"}
    assert here.exists() == (how != "moved")


def test_a_root_further_up_leaves_the_artifacts_where_they_are(
    new_database: Path, tmp_path: Path, tags: RunTags, caplog: pytest.LogCaptureFixture
) -> None:
    """The database has not moved: it lies below the root that its artifacts were written with."""
    root = tmp_path / "outputs"
    (root / "mlflow").mkdir(parents=True)
    shutil.copyfile(new_database, root / "mlflow" / "mlflow.db")
    config = TrackingConfig(uri=f"sqlite:///{root}/mlflow/mlflow.db", system_metrics=False)
    with start_or_resume_run(open_store(config, root), "synthetic", "first", tags, {}) as run:
        pass
    for writes in (False, True):
        assert _artifacts_of(open_store(config, tmp_path, writes=writes), run.run_id).is_relative_to(root)
    assert not caplog.text


@pytest.mark.parametrize("workspace", [".dvc/tmp/exps/standalone/tmp1", ".dvc/tmp/exps/tmp2"])
@pytest.mark.parametrize("uri", ["", "sqlite:///outputs/mlflow/mlflow.db"])
def test_an_experiment_in_a_temporary_copy_uses_the_store_of_the_project(
    workspace: str, uri: str, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `dvc exp run --temp` and `--queue`, whose copies of the project DVC deletes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "project"
    for folder in (project, project / workspace):
        folder.mkdir(parents=True)
        (folder / "params.yaml").touch()
    monkeypatch.chdir(project / workspace)
    (project / "outputs/mlflow").mkdir(parents=True)
    shutil.copyfile(new_database, project / "outputs/mlflow/mlflow.db")
    store = open_store(TrackingConfig(uri=uri), Path("outputs"))
    assert store.uri == f"sqlite:///{project}/outputs/mlflow/mlflow.db"
    assert store.artifact_root == (project / "outputs/mlflow/artifacts").as_uri()
    assert not (project / workspace / "outputs").exists()
