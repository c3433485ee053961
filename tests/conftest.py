"""A localizer small enough that a training step takes a moment, views for it, a browser, an S3 and an MLflow server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import boto3
import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright
from tests.fixtures.ports import find_free_port

from avsl.functional.geometry import identity
from avsl.models import LocalizerConfig
from avsl.models.audio import make_audio_encoder
from avsl.tracking.store import TrackingConfig, TrackingError, open_store
from avsl.types import AVBatch

pytest_plugins = [
    "tests.fixtures.media",
    "tests.fixtures.project",
    "tests.fixtures.records",
    "tests.fixtures.reference",
    "tests.fixtures.store",
    "tests.fixtures.trainings",
]


def pytest_configure() -> None:
    """Make tests repeatable, and give each worker and what it starts one thread: waiting threads take others' cores."""
    # The same examples every time, however slow the machine: one that fails here fails everywhere.
    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


_NETWORK = {
    "backbone": "resnet10t",
    "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 4, "zero_init_last": False},
}


@pytest.fixture(scope="session")
def tiny() -> LocalizerConfig:
    """Two small networks; an 8 x 8 map of a 32 px frame."""
    front_end = {"n_fft": 256, "hop_length": 160, "n_mels": 32}
    return LocalizerConfig.read(
        {"dim": 8, "image": _NETWORK | {"stages": [1, 2]}, "audio": _NETWORK | {"front_end": front_end}}, "model"
    )


class MakeView(Protocol):
    """Draws a view of some rows."""

    def __call__(self, rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        """Random 32 px frames with cached spectrograms, or with 0.25 s of sound; with box masks where asked."""
        ...


@pytest.fixture(scope="session")
def make_view(tiny: LocalizerConfig) -> MakeView:
    """Draws views that the tiny localizer can see."""
    key = make_audio_encoder(tiny.audio, 1).front_end.key

    def make(rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        generator = torch.Generator().manual_seed(seed)
        box = torch.zeros(rows, 32, 32)
        for row in range(rows):
            x, y = torch.randint(0, 20, (2,), generator=generator).tolist()
            box[row, y : y + 12, x : x + 12] = 1
        return AVBatch(
            frame=torch.randn(rows, 3, 32, 32, generator=generator),
            waveform=torch.rand(rows, 4000, generator=generator) - 0.5 if sound else None,
            features={} if sound else {key: torch.randn(rows, 1, 32, 26, generator=generator)},
            index=torch.arange(rows),
            geometry=identity(rows),
            mask=box if mask else None,
        )

    return make


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium with its own profile, for one module, because its event loop disturbs other tests."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    names = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    flags = [f"--{name}" for name in (*names.split(), "disable-sync")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server in a separate process."""
    told = tmp_path_factory.mktemp("s3") / "stderr"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    environment = os.environ | {"S3_UPLOAD_PART_MIN_SIZE": "1"}  # S3 itself asks for 5 MiB
    with told.open("wb") as stream:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream, env=environment)
    try:
        while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", told.read_text())):
            assert process.poll() is None, told.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh bucket, which the AWS variables lead to; no setting of the machine's owner counts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Runs a real `mlflow server`, as light as it goes, in a folder with further options; gives its address."""

    @contextmanager
    def run(folder: Path, *options: str) -> Iterator[str]:
        port = find_free_port()
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
            deadline = time.monotonic() + 300
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
