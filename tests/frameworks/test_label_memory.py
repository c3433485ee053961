"""XPL's memory: what is read is what was written, before and after a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from avsl.frameworks.label_memory import LabelMemory, LabelMemoryError, Labels, Reliability, Rows

GRID = (3, 4)
ROWS = 30


def _batch(rng: np.random.Generator, n: int = 6) -> tuple[Rows, Labels, Reliability]:
    """Labels of some rows, with cells that were never seen."""
    labels = rng.random((n, 2, *GRID)).astype(np.float16)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    return rng.choice(ROWS, n, replace=False), labels, rng.random(n).astype(np.float32)


def _content(memory: LabelMemory) -> tuple[Labels, NDArray[np.float32]]:
    return memory.read(np.arange(ROWS), GRID), memory.reliability


def test_what_is_read_is_what_was_written() -> None:
    """The last value of every row, NaN for what was never written; a saved and loaded memory continues alike."""
    memory, rng = LabelMemory(2), np.random.default_rng(0)
    expected = np.full((ROWS, 2, *GRID), np.nan, np.float16)
    ranked = np.full(ROWS, np.nan, np.float32)
    assert np.isnan(memory.read(np.array([3, 7]), GRID)).all()
    for _ in range(8):
        rows, labels, reliability = _batch(rng)
        memory.write(rows, labels, reliability)
        expected[rows], ranked[rows] = labels, reliability
        loaded = LabelMemory(2)
        loaded.load_state_dict(memory.state_dict())
        for one in (memory, loaded):
            np.testing.assert_array_equal(_content(one)[0], expected)
            np.testing.assert_array_equal(_content(one)[1], ranked[~np.isnan(ranked)])
        memory = loaded


def test_of_a_row_that_is_written_twice_at_once_the_last_counts() -> None:
    """In labels and in reliability."""
    memory = LabelMemory(1)
    labels = np.arange(3, dtype=np.float16).reshape(3, 1, 1, 1)
    memory.write(np.array([2, 5, 2]), labels, np.array([0.1, 0.2, 0.3], np.float32))
    assert memory.read(np.array([2, 5]), (1, 1)).ravel().tolist() == [2, 1]
    np.testing.assert_array_equal(memory.reliability, np.array([0.3, 0.2], np.float32))


def test_undo_takes_back_what_was_written_since_the_mark() -> None:
    """Labels and reliability of new rows and of rows written before."""
    memory, other, rng = LabelMemory(2), LabelMemory(2), np.random.default_rng(0)
    for _ in range(6):
        batch = _batch(rng, 12)
        for each in (memory, other):
            each.write(*batch)
        memory.mark()
        memory.write(*_batch(rng, 12))
        memory.write(*_batch(rng, 12))
        memory.undo()
        for a, b in zip(_content(memory), _content(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_grid_is_refused() -> None:
    """Both grids are named."""
    memory = LabelMemory(2)
    memory.write(*_batch(np.random.default_rng(0)))
    with pytest.raises(LabelMemoryError, match=r"\(3, 4\).*\(4, 4\)"):
        memory.read(np.array([0]), (4, 4))
