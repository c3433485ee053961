"""The label store: what is read is what was written, on disk, in memory and after a kill at any point."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from avsl.frameworks import label_store
from avsl.frameworks.label_store import Labels, LabelStore, LabelStoreError, Reliability, Rows

GRID = (3, 4)
ROWS = 30
Batch = tuple[Rows, Labels, Reliability]


class _KilledError(Exception):
    """Stands for SIGKILL."""


def _batch(rng: np.random.Generator, n: int = 6) -> Batch:
    """Labels of some rows, with cells that were never seen."""
    rows = rng.choice(ROWS, n, replace=False)
    labels = rng.random((n, 2, *GRID)).astype(np.float16)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    return rows, labels, rng.random(n).astype(np.float32)


def _content(store: LabelStore) -> tuple[Labels, NDArray[np.float32]]:
    return store.read(np.arange(ROWS), GRID), store.reliability


def _assert_equal(found: LabelStore, expected: LabelStore) -> None:
    for a, b in zip(_content(found), _content(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def _open(folder: Path, token: str | None) -> LabelStore:
    return LabelStore(2, folder, ROWS, "owner", token)


@contextmanager
def _killed_before_line(number: int) -> Iterator[None]:
    """Ends what runs inside before the store's ``number``-th line."""
    count = 0

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != label_store.__file__:
            return None
        if event == "line":
            if count == number:
                raise _KilledError
            count += 1
        return watch

    previous = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(previous)


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_read_is_what_was_written(tmp_path: Path, on_disk: bool) -> None:
    """The last value of every row, before and after a commit; NaN for what was never written; a dictionary agrees."""
    store = _open(tmp_path / "labels", None) if on_disk else LabelStore(2)
    rng = np.random.default_rng(0)
    expected = np.full((ROWS, 2, *GRID), np.nan, np.float16)
    ranked = np.full(ROWS, np.nan, np.float32)
    assert np.isnan(store.read(np.array([3, 7]), GRID)).all()
    store.write(np.array([ROWS - 1]), expected[:1], np.zeros(1, np.float32))
    ranked[-1] = 0
    for k in range(8):
        rows, labels, reliability = _batch(rng)
        store.write(rows, labels, reliability)
        expected[rows], ranked[rows] = labels, reliability
        if on_disk and k % 3 == 1:
            store.stage(str(k))
            store.commit()
        order = rng.permutation(ROWS)
        np.testing.assert_array_equal(store.read(order, GRID), expected[order])
        np.testing.assert_array_equal(store.reliability, ranked[~np.isnan(ranked)])


def test_of_a_row_that_is_written_twice_at_once_the_last_counts() -> None:
    """In labels and in reliability."""
    store = LabelStore(1)
    labels = np.arange(3, dtype=np.float16).reshape(3, 1, 1, 1)
    store.write(np.array([2, 5, 2]), labels, np.array([0.1, 0.2, 0.3], np.float32))
    assert store.read(np.array([2, 5]), (1, 1)).ravel().tolist() == [2, 1]
    np.testing.assert_array_equal(store.reliability, np.array([0.3, 0.2], np.float32))


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_taken_back_leaves_no_trace(tmp_path: Path, on_disk: bool) -> None:
    """Labels and reliability of new rows, of rows in the file and of rows still in memory; what was kept stays."""
    store, other = ((_open(tmp_path / name, None) if on_disk else LabelStore(2)) for name in ("labels", "other"))
    rng = np.random.default_rng(0)
    for kept in range(6):
        batches = [_batch(rng, 12), _batch(rng, 12)]
        for batch in batches:
            store.mark()
            other.write(*batch)
            store.write(*batch)
        store.mark()
        store.write(*_batch(rng, 12))
        store.write(*_batch(rng, 12))
        store.undo()
        _assert_equal(store, other)
        store.undo()
        _assert_equal(store, other)
        if on_disk and kept % 2:
            for each in (store, other):
                each.stage(str(kept))
                each.commit()
            _assert_equal(store, other)
    assert 12 < len(store.reliability) <= ROWS


def _visit(seed: int, *stores: LabelStore) -> None:
    """Write the same two batches to every store."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        batch = _batch(rng)
        for store in stores:
            store.write(*batch)


def _saved(folder: Path, token: str) -> None:
    """Leave a training's labels with a checkpoint in a folder."""
    store = _open(folder, None)
    _visit(0, store)
    store.stage(token)
    store.commit()


@pytest.mark.parametrize("before", [None, "old"])
def test_a_kill_at_any_line_leaves_the_checkpoints_labels(
    tmp_path: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any line of staging or committing, a store opens with what its checkpoint had seen, and goes on.

    Once on the way to a training's first checkpoint, once to its second.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)  # files outlive a kill without it
    if before is not None:
        _saved(tmp_path / "start", before)
    outcomes: list[str | None] = []
    finished = False
    while not finished:
        folder = tmp_path / str(len(outcomes))
        if before is not None:
            shutil.copytree(tmp_path / "start", folder)
        store, checkpoint = _open(folder, before), before
        _visit(1, store)
        with suppress(_KilledError), _killed_before_line(len(outcomes)):
            store.stage("new")
            checkpoint = "new"
            store.commit()
            finished = True
        outcomes.append(checkpoint)
        expected = LabelStore(2)
        for seed, seen in enumerate((before is not None, checkpoint == "new")):
            if seen:
                _visit(seed, expected)
        found = _open(folder, checkpoint)
        _assert_equal(found, expected)
        _visit(2, found, expected)
        found.stage("next")
        found.commit()
        _assert_equal(_open(folder, "next"), expected)
    assert outcomes.count(before) >= 5
    assert outcomes.count("new") >= 15


def test_a_training_from_scratch_starts_empty(tmp_path: Path) -> None:
    """Without a checkpoint nothing of an earlier training is left, staged or committed."""
    folder = tmp_path / "labels"
    _saved(folder, "old")
    store = _open(folder, "old")
    _visit(1, store)
    store.stage("late")
    labels, reliability = _content(_open(folder, None))
    assert np.isnan(labels).all()
    assert not len(reliability)
    assert [path.name for path in folder.iterdir()] == ["header.json"]


def test_labels_of_another_training_are_refused(tmp_path: Path) -> None:
    """One sentence names the folder, what differs and both values."""
    folder = tmp_path / "labels"
    _saved(folder, "old")
    with pytest.raises(LabelStoreError, match=f"^{folder} holds labels with owner owner, where other is asked for$"):
        LabelStore(2, folder, ROWS, "other", "old")
    with pytest.raises(LabelStoreError, match="holds labels with rows 30, where 31 is asked for"):
        LabelStore(2, folder, 31, "owner", "old")
    with pytest.raises(LabelStoreError, match="holds labels with models 2, where 3 is asked for"):
        LabelStore(3, folder, ROWS, "owner", "old")
    with pytest.raises(LabelStoreError, match=f"^{folder} holds labels of another checkpoint than the one beside it"):
        _open(folder, "unheard of")
    with pytest.raises(LabelStoreError, match=f"^{tmp_path / 'none'} lacks the labels of the checkpoint beside it"):
        _open(tmp_path / "none", "old")
    store = _open(folder, "old")
    with pytest.raises(LabelStoreError, match=r"kept on a grid of \(3, 4\), where \(4, 4\) is asked for"):
        store.read(np.array([0]), (4, 4))
    with pytest.raises(LabelStoreError, match=r"kept on a grid of \(3, 4\), where \(2, 2\) is asked for"):
        store.write(np.array([0]), np.zeros((1, 2, 2, 2), np.float16), np.zeros(1, np.float32))
    with pytest.raises(LabelStoreError, match=r"^row 30 is not among the 30 of"):
        store.write(np.array([ROWS]), np.zeros((1, 2, *GRID), np.float16), np.zeros(1, np.float32))


def test_labels_stay_on_disk(tmp_path: Path) -> None:
    """Thousands of labels, written and read, leave hardly any in memory."""
    store = LabelStore(2, tmp_path / "labels", 200_000, "owner", None)
    rng = np.random.default_rng(0)
    labels = rng.random((2048, 2, 14, 14)).astype(np.float16)
    process, grown = psutil.Process(), []
    order = rng.permutation(200_000)[: 8 * 2048].reshape(8, 2048)
    for k, rows in enumerate(order):
        store.write(rows, labels, labels[:, 0, 0, 0].astype(np.float32))
        store.stage(str(k))
        store.commit()
        store.read(rows, (14, 14))
        grown.append(process.memory_info().rss)
    np.testing.assert_array_equal(store.read(order[0], (14, 14)), labels)
    assert (tmp_path / "labels" / "labels.npy").stat().st_size > 150e6
    assert max(grown[3:]) - grown[2] < 8e6
