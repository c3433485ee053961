"""One store for all tests here: creating MLflow's tables takes seconds. Tests keep apart by data set names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from avsl.tracking.runs import RunTags, Store, TrackingConfig, TrackingError, open_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store on SQLite, without system metrics."""
    root = tmp_path_factory.mktemp("store")
    return open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", system_metrics=False), root)


@pytest.fixture
def data(request: pytest.FixtureRequest) -> str:
    """A data set's name of the test's own."""
    return str(request.node.name).replace("[", "-").replace("]", "")


@pytest.fixture
def tags() -> RunTags:
    """The tags of a DMT run."""
    return RunTags("dmt", "ezvsl", 0.03, 7, "d1", "s1", "0" * 40, "train@dmt")


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder that looks like an exported model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text('{"threshold": 0.4}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Runs a real `mlflow server`, as light as it goes, in a folder with further options; gives its address."""

    @contextmanager
    def run(folder: Path, *options: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port), *options]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            environment.pop(name, None)
        told = folder / "server.log"
        with told.open("w") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while True:
                try:
                    open_store(TrackingConfig(uri=address), folder)
                    break
                except TrackingError:
                    assert process.poll() is None, told.read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=30)

    return run
