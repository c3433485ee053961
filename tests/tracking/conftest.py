"""One store for all tests here: creating MLflow's tables takes seconds. Tests keep apart by data set names."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from avsl.tracking.runs import RunTags, Store, TrackingConfig, open_store


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
