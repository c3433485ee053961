"""An MLflow server that goes away while a model is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from tests.fixtures.messages import says

from avsl.cli import main
from avsl.config.compose import compose
from avsl.tracking.runs import TrackedRun
from avsl.tracking.store import open_store

Serve = Callable[..., AbstractContextManager[str]]


@pytest.mark.slow
def test_a_training_outlives_its_mlflow_server(
    project: Path,
    tmp_path: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Away at the start, in the middle, at the end: a sentence each time, and at last one whole run and its model."""
    for command in ("prepare", "split", "train"):
        assert main([command, "framework=supervised"]) == 0
    weights = (
        project / "outputs" / "synthetic" / "train" / "0.5" / "supervised-ezvsl" / "0" / "model" / "model.safetensors"
    )
    undisturbed = weights.read_bytes()
    trained = weights.parents[1]
    shutil.rmtree(trained)
    # It would go on asking for minutes, which is right but for a test.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/served.db", "--artifacts-destination", f"{tmp_path}/kept")

    def train() -> int:
        return main(["train", "framework=supervised"])

    def told() -> str:
        *_, last = capsys.readouterr().err.strip().splitlines()
        return last

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert train() == 2
    assert says(told(), "avsl: http://127.0.0.1:9")

    for method in ("log_epoch", "log_folder"):
        original, server = getattr(TrackedRun, method), ExitStack()

        def failing(
            self: TrackedRun,
            what: Mapping[str, float] | Path,
            *more: int,
            original: Callable[..., None] = original,
            server: ExitStack = server,
        ) -> None:
            if more != (1,):  # in the first epoch it is still there
                server.close()
            original(self, what, *more)

        with server, monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", server.enter_context(serve(tmp_path, *store)))
            patch.setattr(TrackedRun, method, failing)
            assert train() == 2
        assert told().startswith(f"avsl: {'metrics' if method == 'log_epoch' else 'artifacts'} ")
        assert not (trained / "run.json").exists()

    with serve(tmp_path, *store) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert train() == 0
        config = compose()
        client = open_store(config.tracking, config.root).client
        (experiment,) = [e for e in client.search_experiments() if e.name == "avsl-synthetic"]
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "val/ciou")
        assert sorted(point.step for point in points) == [1, 2, 3, 4]
        assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"model", "curves.csv"}
    assert weights.read_bytes() == undisturbed
