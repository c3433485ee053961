"""What `avsl doctor` says of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.messages import says

import avsl
from avsl.cli import main


def test_doctor_looks_at_a_machine_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder without a project; what fails is said, with exit code 1."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (avsl.__version__, "torch", "mlflow.db", "PyAV", "GB free"))
    assert not list(tmp_path.iterdir())
    assert main(["doctor", "framework=none"]) == 1
    assert says(capsys.readouterr().out, "'none'")
