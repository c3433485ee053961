"""Outputs of frozen networks, kept beside a prepared set: computed once per clip, in half precision, memory-mapped."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout

from avsl.console import Bar, progress_bar
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.functional.image import normalize
from avsl.types import FrozenTrunk, Outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of clips that are computed and written at once.
_AT_ONCE = 16


class KeptOutputs:
    """The outputs of a frozen trunk for rows of a prepared set.

    There is a file for each shard, named after the trunk's key and the shard's hash: other weights, settings or clips
    are other files, and all trainings and evaluations on the set share them. What an interrupted process has written
    of a file is kept, and processes that need the same files divide the work.

    Args:
        data: the prepared set.
        key: of the trunk, with the views.
        compute: outputs, each (B, ...), of the rows with the given numbers.
        rows: the rows whose shards are needed.

    Raises:
        DataError: the disk is full, or an output is beyond half precision.
    """

    def __init__(
        self, data: PreparedData, key: str, compute: Callable[[NDArray[np.int64]], Outputs], rows: NDArray[np.int64]
    ) -> None:
        self._data = data
        self._compute = compute
        self._shapes = [x.shape[1:] for x in compute(rows[:1])]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        # Beside the prepared set, because DVC hashes the set's folder.
        folder = data.root.parent / "frozen"
        shards = {}
        for number, _, _ in data.locate(rows):
            name = hashlib.sha256(f"{key}\n{data.manifest.shards[number].sha256}".encode()).hexdigest()[:32]
            shards[number] = folder / f"{name}.f16"
        try:
            self._fill(shards)
            self._files = {number: self._open(path) for number, path in shards.items()}
        except OSError as error:
            raise DataError(
                f"{folder}: cannot keep the outputs of frozen networks there ({error.strerror}); "
                "model.cache_frozen=false computes them in every step"
            ) from error

    def __call__(self, index: NDArray[np.int64]) -> Outputs:
        """Read the outputs of the rows ``index``, each (B, ...) in half precision.

        Raises:
            IndexError: a row is in no shard of the rows that were asked for.
        """
        found = np.empty((len(index), sum(self._sizes)), np.float16)
        for number, positions, rows in self._data.locate(index):
            if number not in self._files:
                raise IndexError(f"row {index[positions[0]]} is not among those whose outputs are kept")
            found[positions] = self._files[number][rows]
        parts = torch.split(torch.from_numpy(found), self._sizes, 1)
        return tuple(part.view(len(index), *shape) for part, shape in zip(parts, self._shapes, strict=True))

    def _open(self, path: Path) -> NDArray[np.float16]:
        return np.memmap(path, np.float16, "r").reshape(-1, sum(self._sizes))

    def _fill(self, shards: dict[int, Path]) -> None:
        """Compute missing files: first those that no other process computes, then what the others leave."""
        missing = {number: path for number, path in shards.items() if not path.is_file()}
        if not missing:
            return
        next(iter(missing.values())).parent.mkdir(exist_ok=True)
        rows = {number: self._data.rows_of_shard(number) for number in missing}
        with progress_bar("frozen network, clips", sum(map(len, rows.values()))) as bar:
            for patience in (0, -1):
                for number in list(missing):
                    path = missing[number]
                    lock = path.with_suffix(".lock")
                    try:
                        with FileLock(lock, timeout=patience):
                            if path.is_file():  # another process has written it
                                bar.advance(len(rows[number]))
                            else:
                                self._write(path, rows[number], bar)
                            # Who has waited for it finds the whole file.
                            lock.unlink(missing_ok=True)
                            del missing[number]
                    except Timeout:
                        continue

    def _write(self, path: Path, rows: NDArray[np.int64], bar: Bar) -> None:
        """Write the outputs of ``rows``, after those that an interrupted process has written."""
        part, width = path.with_suffix(".part"), 2 * sum(self._sizes)
        with part.open("ab") as file:
            done = file.tell() // width
            file.truncate(done * width)
            bar.advance(done)
            for start in range(done, len(rows), _AT_ONCE):
                outputs = self._compute(rows[start : start + _AT_ONCE])
                flat = torch.cat([x.flatten(1) for x in outputs], 1).half()
                if not flat.isfinite().all():
                    raise DataError(
                        f"{path.parent}: an output of a frozen network is beyond half precision; "
                        "model.cache_frozen=false computes it in every step"
                    )
                file.write(flat.numpy().tobytes())
                file.flush()
                bar.advance(len(flat))
            os.fsync(file.fileno())
        part.replace(path)


def keep_seen(data: PreparedData, trunk: FrozenTrunk, rows: NDArray[np.int64]) -> KeptOutputs:
    """Keep an image trunk's outputs of each frame and of its mirror image, each (B, 2, C, h, w)."""

    @torch.inference_mode()
    def compute(index: NDArray[np.int64]) -> Outputs:
        frames = normalize(torch.from_numpy(data.frames(index)))
        views = [trunk.compute(view) for view in (frames, frames.flip(3))]
        return tuple(torch.stack(pair, 1) for pair in zip(*views, strict=True))

    return KeptOutputs(data, f"{trunk.key} and mirrored", compute, rows)


def keep_heard(data: PreparedData, trunk: FrozenTrunk, rows: NDArray[np.int64]) -> KeptOutputs:
    """Keep an audio trunk's outputs of each sound."""

    @torch.inference_mode()
    def compute(index: NDArray[np.int64]) -> Outputs:
        # Clip by clip, because on a CPU the time of a mel spectrogram grows faster than the batch.
        outputs = [trunk.compute(sound[None]) for sound in torch.from_numpy(data.waveforms(index))]
        return tuple(map(torch.cat, zip(*outputs, strict=True)))

    return KeptOutputs(data, trunk.key, compute, rows)
