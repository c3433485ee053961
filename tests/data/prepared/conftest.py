"""A small prepared set."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.shards import prepare

from avsl.data.prepared.reader import PreparedData


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """The prepared set of SAMPLES."""
    prepare(tmp_path)
    return PreparedData.open(tmp_path)
