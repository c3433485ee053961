"""An MLflow server that goes away while a model is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.fixtures.messages import says

from avsl.cli import main
from avsl.config.compose import compose
from avsl.paths import Layout
from avsl.tracking.runs import TrackedRun
from avsl.tracking.store import open_store

Serve = Callable[..., AbstractContextManager[str]]


_TRAIN = ["train", "framework=supervised"]


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    *_, last = capsys.readouterr().err.strip().splitlines()
    return last


@contextmanager
def _leaving(server: AbstractContextManager[str], method: str) -> Iterator[None]:
    """A server that goes away when a run first calls ``method``, but in the first epoch."""
    original, stack = getattr(TrackedRun, method), ExitStack()

    def failing(self: TrackedRun, what: Mapping[str, float] | Path, *more: int) -> None:
        if more != (1,):
            stack.close()
        original(self, what, *more)

    with stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", stack.enter_context(server))
        patch.setattr(TrackedRun, method, failing)
        yield


@pytest.fixture
def split_data(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with its data prepared and split; MLflow's client gives up at once."""
    for command in ("prepare", "split"):
        assert main([command]) == 0
    # It would go on asking for minutes, which is right but for a test.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return project


@pytest.mark.usefixtures("split_data")
def test_a_server_that_is_away_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its address, before the first step."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(_TRAIN) == 2
    assert says(_told(capsys), "avsl: http://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.usefixtures("split_data")
def test_a_training_outlives_its_mlflow_server(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gone in the middle, gone at the end: a sentence each time, and at last one whole run and its model."""
    assert main(_TRAIN) == 0
    trained = Layout.of(compose(_TRAIN[1:])).train
    weights = trained / "model" / "model.safetensors"
    undisturbed = weights.read_bytes()
    shutil.rmtree(trained)
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/served.db", "--artifacts-destination", f"{tmp_path}/kept")
    for method, kept in (("log_epoch", "metrics"), ("log_folder", "artifacts")):
        with _leaving(serve(tmp_path, *store), method):
            assert main(_TRAIN) == 2
        assert says(_told(capsys), "avsl:", kept)
        assert not (trained / "run.json").exists()

    with serve(tmp_path, *store) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert main(_TRAIN) == 0
        config = compose()
        client = open_store(config.tracking, config.root).client
        (experiment,) = [e for e in client.search_experiments() if e.name == "avsl-synthetic"]
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "val/ciou")
        assert sorted(point.step for point in points) == [1, 2, 3, 4]
        assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"model", "curves.csv"}
    assert weights.read_bytes() == undisturbed
