"""The tiny project's parts, and models whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures.localizers import Fake, Rows
from torch import Tensor

from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData


@pytest.fixture(scope="session")
def data(template: Path) -> PreparedData:
    """Six test rows, four that hear two sources at once, three silent ones and two frames of two and three sounds."""
    return PreparedData.open(template / "outputs" / "synthetic" / "prepared")


@pytest.fixture(scope="session")
def parts(data: PreparedData) -> dict[str, Rows]:
    """Row numbers by part."""
    return {part: data.indices(part) for part in ("validation", "test", "test_duet", "test_offscreen", "test_swap")}


@pytest.fixture(scope="session")
def reader(data: PreparedData) -> RowReader:
    """Reads waveforms, as nothing is cached."""
    return RowReader(data, [], np.arange(len(data), dtype=np.int64))


@pytest.fixture
def perfect(data: PreparedData) -> Fake:
    """Says the truth."""
    return Fake(lambda rows: torch.from_numpy(data.box_masks(rows)).float())


@pytest.fixture
def softened(perfect: Fake) -> Fake:
    """Says the truth, never surely."""
    return Fake(lambda rows: 0.3 + 0.4 * perfect.confidence(rows))


@pytest.fixture
def whole() -> Fake:
    """Says that everything sounds, always."""
    return Fake(lambda rows: torch.ones(len(rows), 32, 32))


@pytest.fixture
def noise() -> Fake:
    """Says something else about every row."""

    def draw(row: int) -> Tensor:
        return torch.rand(8, 8, generator=torch.Generator().manual_seed(row))

    return Fake(lambda rows: torch.stack([draw(row) for row in rows.tolist()]))
