"""Batches of prepared data; the rows of a step depend only on the seed and the step."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from avsl.data.prepared.outputs import keep_heard, keep_seen
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.functional.boxes import consensus_map
from avsl.functional.image import normalize
from avsl.types import FrontEnd, FrozenTrunk, Outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of sounds that are read at once to compute features.
_READ = 64
# Cached features of an open set, by front end and rows.
_KEPT: WeakKeyDictionary[PreparedData, dict[tuple[str, str], NDArray[np.float32]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Rows:
    """Rows of the shards.

    Attributes:
        pixels: (B, H, W, 3) uint8 RGB, whose transfer to a device takes a quarter of that of floats; 0 × 0 if the
            outputs of all image trunks are kept.
        waveform: (B, T) in [-1, 1]; None if the outputs of all front ends or audio trunks are kept.
        features: cached front-end outputs by key.
        index: (B,) row numbers.
        recording: (B,) int64, equal for rows of one recording.
        mask: (B, H, W) annotation in {0, 1}; None if it is not read.
        seen: kept outputs of image trunks by key, each (B, 2, C, h, w) in half precision: of the frame and of its
            mirror image.
        heard: kept outputs of audio trunks by key, in half precision.
    """

    pixels: Tensor
    waveform: Tensor | None
    features: Mapping[str, Tensor]
    index: Tensor
    recording: Tensor
    mask: Tensor | None = None
    seen: Mapping[str, Outputs] = field(default_factory=dict)
    heard: Mapping[str, Outputs] = field(default_factory=dict)

    @property
    def frame(self) -> Tensor:
        """(B, 3, H, W) float, normalized."""
        return normalize(self.pixels)

    def to(self, device: torch.device) -> Rows:
        """The same rows on ``device``."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            waveform=_moved(self.waveform, device),
            features={key: f.to(device, non_blocking=True) for key, f in self.features.items()},
            recording=self.recording.to(device, non_blocking=True),
            mask=_moved(self.mask, device),
            seen={key: tuple(x.to(device, non_blocking=True) for x in xs) for key, xs in self.seen.items()},
            heard={key: tuple(x.to(device, non_blocking=True) for x in xs) for key, xs in self.heard.items()},
        )


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one step.

    Attributes:
        labeled: rows with masks; all rows, without masks, if the framework uses no labels.
        unlabeled: rows without masks; None if all rows are labeled or the framework uses no unlabeled rows.
        hidden: (B_u, H, W) true masks of the unlabeled rows, which measure pseudo-labels and which no framework sees;
            None if the data set does not have all of them.
        step: the step's number.
    """

    labeled: Rows
    unlabeled: Rows | None
    hidden: Tensor | None
    step: int

    def to(self, device: torch.device) -> TrainingRows:
        """The same rows on ``device``."""
        return replace(
            self,
            labeled=self.labeled.to(device),
            unlabeled=None if self.unlabeled is None else self.unlabeled.to(device),
            hidden=_moved(self.hidden, device),
        )


class RowReader:
    """Reads rows by number and caches the outputs of front ends and of frozen trunks.

    Those of front ends are memory-mapped from an unlinked file on the disk of the prepared set, so that memory does not
    grow with the number of rows. Readers of the same rows share it, and it is freed with ``data``.

    Args:
        data: the prepared set.
        front_ends: audio front ends whose outputs replace the waveform; the waveform is kept if there are none, or if
            one is not ``cacheable``.
        rows: the rows whose features are cached.
        image_trunks: frozen image trunks whose kept outputs replace the pixels.
        audio_trunks: frozen audio trunks whose kept outputs, with those of ``front_ends``, replace the waveform.
    """

    def __init__(
        self,
        data: PreparedData,
        front_ends: Sequence[FrontEnd],
        rows: NDArray[np.int64],
        *,
        image_trunks: Sequence[FrozenTrunk] = (),
        audio_trunks: Sequence[FrozenTrunk] = (),
    ) -> None:
        self.data = data
        self._position = np.full(len(data), -1, np.int64)
        self._position[rows] = np.arange(len(rows))
        cached = {front_end.key: front_end for front_end in front_ends if front_end.cacheable}
        kept, name = _KEPT.setdefault(data, {}), hashlib.sha256(rows.tobytes()).hexdigest()
        for key, front_end in cached.items():
            if (key, name) not in kept:
                kept[key, name] = _cache(data, front_end, rows)
        self._features = {key: kept[key, name] for key in cached}
        # Two students may have the same trunk.
        self._seen = {key: keep_seen(data, trunk, rows) for key, trunk in {t.key: t for t in image_trunks}.items()}
        self._heard = {key: keep_heard(data, trunk, rows) for key, trunk in {t.key: t for t in audio_trunks}.items()}
        self._keeps_waveform = not (front_ends or audio_trunks) or not all(f.cacheable for f in front_ends)

    def __call__(self, index: NDArray[np.int64], *, masks: bool) -> Rows:
        """Read the rows ``index``, with their annotation if ``masks`` is True.

        Raises:
            IndexError: the features of a row are not cached.
        """
        position = self._position[index]
        if self._features and (position < 0).any():
            raise IndexError(f"row {index[position < 0][0]} is not among those whose features are cached")
        pixels = np.empty((len(index), 0, 0, 3), np.uint8) if self._seen else self.data.frames(index)
        return Rows(
            pixels=torch.from_numpy(pixels),
            waveform=torch.from_numpy(self.data.waveforms(index)) if self._keeps_waveform else None,
            features={key: torch.from_numpy(cached[position]) for key, cached in self._features.items()},
            index=torch.from_numpy(index),
            recording=torch.from_numpy(self.data.recordings[index]),
            mask=self.truth(index).float() if masks else None,
            seen={key: kept(index) for key, kept in self._seen.items()},
            heard={key: kept(index) for key, kept in self._heard.items()},
        )

    def frames(self, index: NDArray[np.int64]) -> Tensor:
        """(B, 3, H, W) float, normalized frames of the rows ``index``."""
        return normalize(torch.from_numpy(self.data.frames(index)))

    def truth(self, index: NDArray[np.int64]) -> Tensor:
        """(B, H, W) bool annotation of the rows ``index``: `PreparedData.truth_masks`."""
        return torch.from_numpy(self.data.truth_masks(index))

    def consensus(self, index: NDArray[np.int64]) -> Tensor:
        """(B, H, W) float32: `avsl.functional.boxes.consensus_map` of every annotator's boxes.

        Rows without every annotator's boxes are NaN.
        """
        side = self.data.manifest.image_size
        maps = torch.full((len(index), side, side), torch.nan)
        for row, meta in enumerate(self.data.meta(index)):
            if "boxes_256" in meta:
                maps[row] = torch.from_numpy(consensus_map(np.array(meta["boxes_256"]) / 256, side))
        return maps


def _cache(data: PreparedData, front_end: FrontEnd, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the outputs of a front end, (rows, ...), memory-mapped.

    Raises:
        DataError: the disk is full.
    """
    shape: tuple[int, ...] = ()
    try:
        # Beside the prepared set, because DVC hashes the set's folder and the system's temporary folder may be in
        # memory.
        with tempfile.TemporaryFile(dir=data.root.parent) as file:
            for start in range(0, len(rows), _READ):
                sounds = torch.from_numpy(data.waveforms(rows[start : start + _READ]))
                # Clip by clip, because on a CPU the time of a mel spectrogram grows faster than the batch.
                for k in range(len(sounds)):
                    output = front_end(sounds[k : k + 1]).numpy()
                    shape = output.shape[1:]
                    file.write(output.astype(np.float32, copy=False).tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(len(rows), *shape))
    except OSError as error:
        raise DataError(
            f"{data.root.parent}: cannot keep the features of {len(rows)} sounds there ({error.strerror}); "
            "trainer.cache_features=false computes them in every step"
        ) from error


def endless(pool: NDArray[np.int64], seed: int, start: int, count: int) -> NDArray[np.int64]:
    """Items [start, start + count) of the endless stream of seeded shuffles of ``pool``.

    It depends only on its arguments, so that a resumed training reads the same rows as an uninterrupted one.
    """
    drawn: list[NDArray[np.int64]] = []
    while count > 0:
        round_, offset = divmod(start, len(pool))
        shuffled = np.random.default_rng((seed, round_)).permutation(pool)
        drawn.append(shuffled[offset : offset + count])
        start, count = start + len(drawn[-1]), count - len(drawn[-1])
    return np.concatenate(drawn)


class StepLoader:
    """Yields the rows of each training step; its state is the number of the next step.

    Args:
        reader: reads rows.
        labeled: rows whose labels may be used.
        unlabeled: rows without labels; empty for none.
        batch_size: rows of a step.
        labeled_batch_size: number of labeled rows among them, if there are unlabeled ones.
        steps_per_epoch: steps before validation.
        seed: seed of the shuffles.
        masks: whether to read the masks of labeled rows.
        hidden: whether to read the true masks of unlabeled rows to measure pseudo-labels, if all are annotated.
        rank: rank of this training process, which reads its share of a step's rows.
        processes: number of training processes; it divides both batch sizes.
    """

    def __init__(
        self,
        reader: RowReader,
        labeled: NDArray[np.int64],
        unlabeled: NDArray[np.int64],
        *,
        batch_size: int,
        labeled_batch_size: int,
        steps_per_epoch: int,
        seed: int,
        masks: bool,
        hidden: bool,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._reader = reader
        self._share = rank, processes
        self._pools = labeled, unlabeled
        self._sizes = (labeled_batch_size, batch_size - labeled_batch_size) if len(unlabeled) else (batch_size, 0)
        self._steps_per_epoch = steps_per_epoch
        self._seed = seed
        self._masks = masks
        self._hidden = hidden and bool(reader.data.annotated[unlabeled].all())
        self._next = 0

    def __len__(self) -> int:
        return self._steps_per_epoch

    def __iter__(self) -> Iterator[TrainingRows]:
        end = (self._next // self._steps_per_epoch + 1) * self._steps_per_epoch
        while self._next < end:
            self._next += 1
            yield self.rows(self._next - 1)

    def row_numbers(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of labeled and unlabeled rows of step ``step``, for all processes."""
        (labeled, unlabeled), (n_labeled, n_unlabeled) = self._pools, self._sizes
        rows = endless(labeled, self._seed, step * n_labeled, n_labeled)
        if not n_unlabeled:
            return rows, unlabeled[:0]
        return rows, endless(unlabeled, self._seed + 1, step * n_unlabeled, n_unlabeled)

    def rows(self, step: int) -> TrainingRows:
        """Read this process's share of the rows of step ``step``, counted from 0 over all epochs."""
        labeled, others = (self._own(rows) for rows in self.row_numbers(step))
        if not len(others):
            return TrainingRows(self._reader(labeled, masks=self._masks), None, None, step)
        return TrainingRows(
            labeled=self._reader(labeled, masks=self._masks),
            unlabeled=self._reader(others, masks=False),
            hidden=self._reader.truth(others).float() if self._hidden else None,
            step=step,
        )

    def _own(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        rank, processes = self._share
        size = len(drawn) // processes
        return drawn[rank * size : (rank + 1) * size]

    def state_dict(self) -> dict[str, Any]:
        """The number of the next step."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the step in ``state``."""
        self._next = int(state["next"])


class RowLoader:
    """Yields rows with their masks in order, ``batch_size`` at a time."""

    def __init__(self, reader: RowReader, rows: NDArray[np.int64], batch_size: int) -> None:
        self._reader = reader
        self._rows = rows
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Rows]:
        for start in range(0, len(self._rows), self._batch_size):
            yield self._reader(self._rows[start : start + self._batch_size], masks=True)
