"""Rebuilding the registry; tests/test_dag.py does it in a clone that has pulled its outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.messages import facts

from avsl.errors import DataError
from avsl.stages.restore import restore


def test_without_registrations_there_is_nothing_to_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what brings them, and makes no store."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(DataError, match=facts("register pull")):
        restore([f"root={tmp_path}"])
    assert not list(tmp_path.iterdir())
