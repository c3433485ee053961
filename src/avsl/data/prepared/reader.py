"""Reads a prepared data set from memory-mapped shards."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ValidationError

from avsl.data.prepared.format import MANIFEST, Manifest, ShardEntry
from avsl.errors import DataError
from avsl.files import file_hash
from avsl.functional.boxes import box_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Jpegs:
    """JPEG frames of a shard, indexed like an array of pixels."""

    def __init__(self, column: pa.Array, side: int) -> None:
        _, offsets, self._bytes = column.buffers()
        self._offsets = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        self._side = side

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(rows), self._side, self._side, 3), dtype=np.uint8)
        for target, row in zip(out, rows, strict=True):
            start, end = self._offsets[row], self._offsets[row + 1]
            with Image.open(io.BytesIO(self._bytes[start:end])) as picture:
                target[:] = np.asarray(picture)
        return out

    @property
    def nbytes(self) -> int:
        """Size of all frames in bytes."""
        return int(self._offsets[-1] - self._offsets[0])


@dataclass(frozen=True)
class _Shard:
    """One memory-mapped shard, whose arrays are views of the file."""

    table: pa.RecordBatch
    frames: NDArray[np.uint8] | _Jpegs
    waveforms: NDArray[np.int16]
    masks: NDArray[np.uint8]
    has_mask: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    box_offsets: NDArray[np.int32]
    has_boxes: NDArray[np.bool_]


def _fixed(column: pa.Array, dtype: str) -> NDArray[Any]:
    """(rows, width) view of a fixed_size_binary column's bytes."""
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=len(column) * column.type.byte_width)
    return flat.view(dtype).reshape(len(column), -1)


def _valid(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid())


def _open_shard(path: Path, entry: ShardEntry, manifest: Manifest) -> _Shard:
    if not path.is_file():
        raise DataError(f"{path}: the shard is missing, but {MANIFEST} lists it")
    size = path.stat().st_size
    if size != entry.bytes:
        raise DataError(f"{path}: the shard has {size} bytes, not the {entry.bytes} that {MANIFEST} states")
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({error})") from None
    side, n = manifest.image_size, batch.num_rows
    if n != entry.rows:
        raise DataError(f"{path}: the shard has {n} rows, not the {entry.rows} that {MANIFEST} states")
    frame = batch.column("frame")
    encoded = frame.type == pa.large_binary()
    for column, width in (("frame", side * side * 3), ("waveform", 2 * manifest.n_samples_audio)):
        if batch.column(column).type != pa.binary(width) and not (column == "frame" and encoded):
            raise DataError(f"{path}: column '{column}' is {batch.column(column).type}, not {width} bytes a row")
    boxes, mask = batch.column("boxes"), batch.column("mask")
    return _Shard(
        table=batch,
        frames=_Jpegs(frame, side) if encoded else _fixed(frame, "u1").reshape(n, side, side, 3),
        waveforms=_fixed(batch.column("waveform"), "<i2"),
        masks=_fixed(mask, "u1"),
        has_mask=_valid(mask),
        boxes=np.asarray(boxes.values.values).reshape(-1, 4),
        box_offsets=np.asarray(boxes.offsets),
        has_boxes=_valid(boxes),
    )


def _bounding_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(1, 4) fractions, the smallest box around the mask; (0, 4) if the mask is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros((0, 4), dtype=np.float32)
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return (np.array([box], dtype=np.float64) / len(mask)).astype(np.float32)


class PreparedData:
    """A memory-mapped prepared set, whose rows are read on demand.

    The argument ``index`` of its methods is an int64 array of row numbers over all shards.
    """

    def __init__(self, root: Path, manifest: Manifest, shards: Sequence[_Shard]) -> None:
        self.root = root
        self.manifest = manifest
        self._shards = shards
        self._ends = np.cumsum([len(shard.frames) for shard in shards])

    @classmethod
    def open(cls, root: Path | str) -> PreparedData:
        """Open the set in ``root`` and check the existence, sizes and row counts of its files.

        Raises:
            DataError: the manifest or a shard is missing, truncated or inconsistent; names the file.
        """
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise DataError(f"{path}: no such file: not a prepared data set, or an interrupted preparation")
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise DataError(f"{path}: not a valid manifest: {where}: {first['msg'].lower()}") from None
        if not manifest.shards:
            raise DataError(f"{path}: the manifest lists no shard")
        return cls(root, manifest, [_open_shard(root / entry.file, entry, manifest) for entry in manifest.shards])

    def verify(self) -> None:
        """Read all shards and compare their hashes with the manifest.

        Raises:
            DataError: a shard's SHA-256, or the content hash, is not what the manifest states.
        """
        for entry in self.manifest.shards:
            if file_hash(self.root / entry.file) != entry.sha256:
                raise DataError(f"{self.root / entry.file}: SHA-256 is not the one {MANIFEST} states")
        content = hashlib.sha256("\n".join(entry.sha256 for entry in self.manifest.shards).encode()).hexdigest()
        if content != self.manifest.content_hash:
            raise DataError(f"{self.root / MANIFEST}: content_hash does not match the shards' hashes")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _texts(self, column: str) -> list[str]:
        return [text for shard in self._shards for text in shard.table.column(column).to_pylist()]

    def _kinds(self, column: str) -> NDArray[np.object_]:
        """(rows,) str, in which equal strings are one object to save memory."""
        seen: dict[str, str] = {}
        found = np.empty(len(self), dtype=object)
        start = 0
        for shard in self._shards:
            texts = shard.table.column(column).to_pylist()
            found[start : start + len(texts)] = [seen.setdefault(text, text) for text in texts]
            start += len(texts)
        return found

    @cached_property
    def sample_ids(self) -> list[str]:
        """The unique names of all rows."""
        return self._texts("sample_id")

    @cached_property
    def source_ids(self) -> NDArray[np.object_]:
        """(rows,) str: the recording of each row."""
        return np.array(self._texts("source_id"), dtype=object)

    @cached_property
    def recordings(self) -> NDArray[np.int64]:
        """(rows,) int64, equal for rows of one recording, and for rows of one group."""
        return np.unique(self.source_ids, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def group_ids(self) -> NDArray[np.object_]:
        """(rows,) str, equal for rows that share a frame and have different sounds."""
        return np.array(self._texts("group_id"), dtype=object)

    @cached_property
    def parts(self) -> NDArray[np.object_]:
        """(rows,) str: one of ``PARTS``."""
        return self._kinds("part")

    @cached_property
    def labels(self) -> NDArray[np.object_]:
        """(rows,) str: class name of the sounding object."""
        return self._kinds("label")

    @cached_property
    def annotated(self) -> NDArray[np.bool_]:
        """(rows,) bool: whether the row has boxes, which may be none, or an exact mask."""
        return np.concatenate([shard.has_boxes | shard.has_mask for shard in self._shards])

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """(rows,) bool: whether the annotation is an exact mask, without boxes."""
        return np.concatenate([shard.has_mask & ~shard.has_boxes for shard in self._shards])

    @property
    def n_boxes(self) -> int:
        """Number of boxes of all rows."""
        return sum(int(shard.box_offsets[-1] - shard.box_offsets[0]) for shard in self._shards)

    @property
    def frame_bytes(self) -> int:
        """Size of all frames on disk in bytes."""
        return sum(shard.frames.nbytes for shard in self._shards)

    def indices(self, part: str) -> NDArray[np.int64]:
        """Row numbers of one part, ascending; empty if the set has no such part."""
        return np.flatnonzero(self.parts == part).astype(np.int64)

    def rows_of(self, sample_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers of samples, in the order of ``sample_ids``.

        Raises:
            DataError: the set has no sample of that name.
        """
        try:
            return np.array([self._row_by_id[sample] for sample in sample_ids], np.int64)
        except KeyError as error:
            raise DataError(f"{self.root}: the prepared data set has no sample {error}") from None

    @cached_property
    def _row_by_id(self) -> dict[str, int]:
        return {sample: row for row, sample in enumerate(self.sample_ids)}

    def rows_of_shard(self, number: int) -> NDArray[np.int64]:
        """The row numbers of a shard, in its order."""
        return np.arange(self._ends[number] - len(self._shards[number].frames), self._ends[number], dtype=np.int64)

    def _locate(self, index: NDArray[np.int64]) -> Iterator[tuple[_Shard, NDArray[np.intp], NDArray[np.int64]]]:
        """Yield each shard with rows of ``index``, their positions in ``index``, and their rows in the shard."""
        for number, positions, rows in self.locate(index):
            yield self._shards[number], positions, rows

    def locate(self, index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """Yield the number of each shard with rows of ``index``, their positions in ``index``, and in the shard.

        Raises:
            IndexError: the set has no such row.
        """
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"row {index.min()} or {index.max()} is outside 0 .. {len(self) - 1}")
        owner = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(owner):
            positions = np.flatnonzero(owner == number)
            yield int(number), positions, index[positions] - self.rows_of_shard(number)[0]

    def frames(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, H, W, 3) uint8 RGB."""
        side = self.manifest.image_size
        out = np.empty((len(index), side, side, 3), dtype=np.uint8)
        for shard, positions, rows in self._locate(index):
            out[positions] = shard.frames[rows]
        return out

    def meta(self, index: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The small JSON values of the rows ``index``."""
        found: list[dict[str, Any]] = [{}] * len(index)
        for positions, metas in self._metas(index):
            for position, meta in zip(positions, metas, strict=True):
                found[position] = meta
        return found

    def mixed(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: whether several sources sound at once."""
        return self._where(index, lambda meta: len(meta.get("sounding", ())) > 1)

    def scaled(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: whether the sound was above full scale and has been scaled."""
        return self._where(index, lambda meta: bool(meta.get("scaled")))

    def voted(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: whether the row has the boxes of every annotator."""
        return self._where(index, lambda meta: "boxes_256" in meta)

    def _where(self, index: NDArray[np.int64], holds: Callable[[dict[str, Any]], bool]) -> NDArray[np.bool_]:
        found = np.empty(len(index), dtype=bool)
        for positions, metas in self._metas(index):
            found[positions] = [holds(meta) for meta in metas]
        return found

    def _metas(self, index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], list[dict[str, Any]]]]:
        """Yield positions in ``index`` and the small JSON values of their rows, shard by shard to limit memory."""
        for shard, positions, rows in self._locate(index):
            texts = shard.table.column("meta").take(pa.array(rows)).to_pylist()
            yield positions, [json.loads(text) for text in texts]

    def waveforms(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, T) float32 in [-1, 1)."""
        out = np.empty((len(index), self.manifest.n_samples_audio), dtype=np.float32)
        for shard, positions, rows in self._locate(index):
            out[positions] = shard.waveforms[rows]
        out /= 32768
        return out

    def boxes(self, i: int) -> NDArray[np.float32] | None:
        """(k, 4) float32 x0, y0, x1, y1 as fractions of the frame; None if the row is not annotated.

        For an exact mask this is the smallest box around it, which is only used in pictures.
        """
        ((shard, _, rows),) = self._locate(np.array([i], dtype=np.int64))
        row = rows[0]
        if shard.has_boxes[row]:
            return shard.boxes[shard.box_offsets[row] : shard.box_offsets[row + 1]]
        return _bounding_box(self.object_masks(np.array([i]))[0]) if shard.has_mask[row] else None

    def truth_masks(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, H, W) bool, the annotation of each row for training and evaluation.

        It is the union of the row's boxes, even if there is an exact mask, because published scores of such data use
        boxes; without boxes it is the exact mask (AVSBench, VGGSound-Instruments, PascalSound-style folders).

        Raises:
            DataError: a row is not annotated.
        """
        side = self.manifest.image_size
        out = np.empty((len(index), side, side), dtype=bool)
        exact = self.exact[index]
        out[exact] = self.object_masks(index[exact])
        out[~exact] = self.box_masks(index[~exact])
        return out

    def box_masks(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, H, W) bool, the union of each row's boxes: `avsl.functional.boxes.box_mask`.

        Raises:
            DataError: a row has no boxes.
        """
        side = self.manifest.image_size
        out = np.empty((len(index), side, side), dtype=bool)
        for shard, positions, rows in self._locate(index):
            if not shard.has_boxes[rows].all():
                bare = index[positions[~shard.has_boxes[rows]][0]]
                raise DataError(f"sample '{self.sample_ids[bare]}' has no annotation, so no box mask")
            for position, row in zip(positions, rows, strict=True):
                out[position] = box_mask(shard.boxes[shard.box_offsets[row] : shard.box_offsets[row + 1]], side)
        return out

    def object_masks(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, H, W) bool, the exact masks.

        Raises:
            DataError: a row has no exact mask.
        """
        side = self.manifest.image_size
        out = np.empty((len(index), side, side), dtype=bool)
        for shard, positions, rows in self._locate(index):
            if not shard.has_mask[rows].all():
                bare = index[positions[~shard.has_mask[rows]][0]]
                raise DataError(f"sample '{self.sample_ids[bare]}' has no exact object mask")
            bits = np.unpackbits(shard.masks[rows], axis=1, count=side * side)
            out[positions] = bits.reshape(-1, side, side).view(bool)
        return out
