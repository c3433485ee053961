"""XPL's memory: one soft label per sample and model, on disk and in step with the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from avsl.errors import AvslError
from avsl.files import whole_file, write_json

Labels = NDArray[np.float16]
Reliability = NDArray[np.float32]
Rows = NDArray[np.int64]

_HEADER, _LABELS, _RELIABILITY, _JOURNAL = "header.json", "labels.npy", "reliability.npy", "journal.npz"


class LabelStoreError(AvslError):
    """A label store that does not fit the training; the message is one sentence."""


class LabelStore:
    """Half-precision labels of every sample by each model, with the sample's latest reliability.

    Labels lie in one file, rows × models × h × w, that is mapped into memory only while a batch is read or a checkpoint
    written, and is sparse until rows are visited. What is written is kept in memory until the next checkpoint:

    1. ``stage`` writes it to a redo journal with the checkpoint's token, whole or not at all;
    2. the checkpoint, which carries the token, replaces the one before;
    3. ``commit`` applies the journal to the file and removes it.

    A store that is opened with a checkpoint's token applies a journal with the same token (again, if it had been: that
    changes nothing) and drops any other, so that a training killed at any point finds what its checkpoint had seen.
    Without a folder all of it stays in memory. Of processes that train together each is told all that is written, and
    one keeps the folder: the others open it when it has, follow it when it has committed, and write nothing.

    Args:
        models: how many label each sample.
        folder: its own; None for memory alone.
        rows: of the data set; counts where there is a folder.
        owner: identifies the training.
        token: of the checkpoint that is continued; None starts empty.
        keeps: whether this process keeps the folder.

    Raises:
        LabelStoreError: the folder's labels are not the owner's, not the checkpoint's, or of other rows or models.
    """

    def __init__(
        self,
        models: int,
        folder: Path | None = None,
        rows: int = 0,
        owner: str = "",
        token: str | None = None,
        *,
        keeps: bool = True,
    ) -> None:
        self._models = models
        self._folder = folder
        self._owner = owner
        self._grid: tuple[int, ...] | None = None
        self._reliability: Reliability = np.full(rows, np.nan, np.float32)
        self._written: dict[int, Labels] = {}
        # What the rows written since `mark` held before: labels not yet in the file, reliability.
        self._before: dict[int, tuple[Labels | None, float]] = {}
        if folder is None:
            return
        if token is not None:
            self._recover(folder, token)
            return
        if not keeps:
            return
        if folder.exists():
            shutil.rmtree(folder)
        self._write_header(folder, None)

    @property
    def reliability(self) -> Reliability:
        """The latest reliability of each sample that has been visited, by row number."""
        return self._reliability[~np.isnan(self._reliability)]

    def read(self, rows: Rows, grid: tuple[int, ...]) -> Labels:
        """The labels of ``rows``, (n, models, *grid); NaN on cells that no model has seen.

        Raises:
            LabelStoreError: the labels are kept on another grid.
        """
        self._check(grid)
        labels: Labels = np.full((len(rows), self._models, *grid), np.nan, np.float16)
        if self._folder is not None and (path := self._folder / _LABELS).is_file():
            visited = ~np.isnan(self._reliability[rows])
            labels[visited] = np.load(path, mmap_mode="r")[rows[visited]]
        for k, row in enumerate(rows.tolist()):
            if row in self._written:
                labels[k] = self._written[row]
        return labels

    def write(self, rows: Rows, labels: Labels, reliability: Reliability) -> None:
        """Replace the labels (n, models, h, w) and reliabilities (n,) of ``rows``; of one named twice the last counts.

        Raises:
            LabelStoreError: the labels are kept on another grid, or the data set has no such row.
        """
        self._check(labels.shape[2:])
        self._grid = labels.shape[2:]
        missing = int(rows.max()) + 1 - len(self._reliability)
        if missing > 0:
            if self._folder is not None:
                raise LabelStoreError(f"row {rows.max()} is not among the {len(self._reliability)} of {self._folder}")
            self._reliability = np.pad(self._reliability, (0, missing), constant_values=np.nan)
        for row in rows.tolist():
            self._before.setdefault(row, (self._written.get(row), float(self._reliability[row])))
        self._reliability[rows] = reliability
        self._written.update(zip(rows.tolist(), labels.copy(), strict=True))

    def mark(self) -> None:
        """Note this state, for `undo`."""
        self._before = {}

    def undo(self) -> None:
        """Take back what was written since `mark`; only before it is staged."""
        for row, (labels, reliability) in self._before.items():
            self._reliability[row] = reliability
            if labels is None:
                del self._written[row]
            else:
                self._written[row] = labels
        self._before = {}

    def stage(self, token: str) -> None:
        """Make what was written since the last checkpoint durable, for the checkpoint that carries ``token``."""
        rows = np.array(sorted(self._written), np.int64)
        labels = np.stack([self._written[row] for row in rows.tolist()]) if len(rows) else np.zeros(0, np.float16)
        with _durable(self._kept_in() / _JOURNAL) as file:
            np.savez(file, token=np.array(token), rows=rows, labels=labels, reliability=self._reliability[rows])

    def commit(self) -> None:
        """Apply what was staged: its checkpoint is written."""
        folder = self._kept_in()
        with np.load(folder / _JOURNAL) as journal:
            token, rows, labels = str(journal["token"]), journal["rows"], journal["labels"]
            self._reliability[rows] = journal["reliability"]
        if len(rows):
            self._grid = labels.shape[2:]
            path = folder / _LABELS
            if not path.is_file():
                with whole_file(path) as part:
                    np.lib.format.open_memmap(part, "w+", np.float16, (len(self._reliability), *labels.shape[1:]))
            start = np.load(path, mmap_mode="r").offset
            # Not through a mapping: a full disk would end the process by a signal.
            with path.open("r+b") as file:
                for row, label in zip(rows.tolist(), labels, strict=True):
                    file.seek(start + row * label.nbytes)
                    file.write(label.tobytes())
                file.flush()
                os.fsync(file.fileno())
            with _durable(folder / _RELIABILITY) as file:
                np.save(file, self._reliability)
        self._write_header(folder, token)
        (folder / _JOURNAL).unlink()
        self._written = {}

    def follow(self) -> None:
        """Read from the folder what was written, now that the process that keeps it has committed."""
        self._written = {}

    def _write_header(self, folder: Path, token: str | None) -> None:
        """Say what the files hold, and which checkpoint's."""
        sizes = {"rows": len(self._reliability), "models": self._models, "grid": self._grid}
        write_json(folder / _HEADER, {"owner": self._owner, **sizes, "token": token})

    def _recover(self, folder: Path, token: str) -> None:
        """Bring the folder's state to that of the checkpoint with ``token``."""
        try:
            header = json.loads((folder / _HEADER).read_text())
        except FileNotFoundError:
            raise LabelStoreError(f"{folder} lacks the labels of the checkpoint beside it: delete both") from None
        for key, wanted in (("owner", self._owner), ("rows", len(self._reliability)), ("models", self._models)):
            if header[key] != wanted:
                raise LabelStoreError(f"{folder} holds labels with {key} {header[key]}, where {wanted} is asked for")
        self._grid = header["grid"] and tuple(header["grid"])
        if (folder / _RELIABILITY).is_file():
            self._reliability = np.load(folder / _RELIABILITY)
        if (folder / _JOURNAL).is_file():
            with np.load(folder / _JOURNAL) as journal:
                staged = str(journal["token"])
            if staged == token:
                self.commit()
                return
            (folder / _JOURNAL).unlink()
        if header["token"] != token:
            raise LabelStoreError(f"{folder} holds labels of another checkpoint than the one beside it: delete both")

    def _check(self, grid: tuple[int, ...]) -> None:
        if self._grid not in (None, grid):
            raise LabelStoreError(f"labels are kept on a grid of {self._grid}, where {grid} is asked for")

    def _kept_in(self) -> Path:
        if self._folder is None:
            raise ValueError("labels without a folder go with no checkpoint")
        return self._folder


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    """A file that replaces ``path`` once it is whole and on disk."""
    with whole_file(path) as part, part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
