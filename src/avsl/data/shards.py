"""Prepared data sets: Arrow IPC shards, memory-mapped, under one manifest.

A prepared set is a folder of ``shard-*.arrow`` files (uncompressed), one small JSON beside each by which a later
preparation knows what it can keep, and ``manifest.json``, written last.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from avsl.data.errors import DataError
from avsl.files import PART, file_hash, whole_file, write_json
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = (
    "train",
    "validation",
    "test",
    "test_small",
    "test_duet",
    "test_offscreen",
    "test_swap",
    "test_unheard",
)
MANIFEST = "manifest.json"
FrameFormat = Literal["raw", "jpeg"]
"""How shards hold frames: as pixels, or as JPEG, a fraction of their size, which is decoded at every reading."""
_JPEG_QUALITY = 95
_TEXT_COLUMNS = ("sample_id", "source_id", "group_id", "part", "label")
_Result = TypeVar("_Result")
# A fraction k/W kept in float32 may come back a hair under pixel k; this much of a pixel is forgiven.
_PIXEL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sample:
    """One frame with one sound.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording it comes from; a source lies on one side of a split.
        group_id: rows that share one frame share it.
        part: one of ``PARTS``.
        label: class name of the sounding object.
        frame: (H, W, 3) uint8 RGB, H = W.
        waveform: (T,) int16, mono.
        boxes: (n, 4) float32, x0, y0, x1, y1 as fractions of the frame; n = 0 where nothing in view sounds;
            None where nobody drew boxes.
        mask: (H, W) bool, the exact pixels that sound, where known.
        meta: small JSON values; under ``sounding`` the classes that sound at once, where they are several, under
            ``boxes_256`` the boxes of all annotators in units of a 256-pixel frame, where some agree in part only.
    """

    sample_id: str
    source_id: str
    group_id: str
    part: str
    label: str
    frame: NDArray[np.uint8]
    waveform: NDArray[np.int16]
    boxes: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


class ShardEntry(StrictConfig):
    """One shard in the manifest."""

    file: str = Field(pattern=r"^[\w.-]+$")  # in the manifest's folder, never outside
    rows: int = Field(ge=0)
    bytes: int = Field(gt=0)
    sha256: str


class Manifest(StrictConfig):
    """What a prepared set holds.

    ``counts`` are the rows of each part, ``expected`` those that its lists name, where there are lists; what is
    missing between the two could not be used. ``content_hash`` is the SHA-256 over the shards' own, in order: equal
    data, equal hash.
    """

    name: str
    image_size: int = Field(gt=0)
    sample_rate: int = Field(gt=0)
    n_samples_audio: int = Field(gt=0)
    counts: dict[str, int]
    classes: list[str]
    settings: dict[str, Any]
    shards: list[ShardEntry]
    content_hash: str
    expected: dict[str, int] = Field(default_factory=dict)


def _bytes_column(rows: Sequence[NDArray[Any] | None], width: int) -> pa.Array:
    """A fixed_size_binary column; the bytes of a null are zeros, so that equal rows give equal files."""
    block = np.zeros((len(rows), width), dtype=np.uint8)
    for target, row in zip(block, rows, strict=True):
        if row is not None:
            target[:] = np.ascontiguousarray(row).reshape(-1).view(np.uint8)
    valid = np.array([row is not None for row in rows], dtype=bool)
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(width), len(rows), [bitmap, pa.py_buffer(block)])


def _boxes_column(rows: Sequence[NDArray[np.float32] | None]) -> pa.Array:
    arrays = [np.zeros((0, 4), np.float32) if row is None else np.asarray(row, np.float32) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in arrays])]).astype(np.int32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(arrays).reshape(-1)), 4)
    missing = pa.array([row is None for row in rows])
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def _check(sample: Sample, shape: tuple[int, ...], length: int) -> None:
    def refuse(what: str) -> None:
        raise DataError(f"sample '{sample.sample_id}': {what}")

    if sample.part not in PARTS:
        refuse(f"part '{sample.part}' is none of {', '.join(PARTS)}")
    if sample.frame.dtype != np.uint8 or sample.frame.shape != shape or shape[0] != shape[1] or shape[2:] != (3,):
        refuse(f"frame is {sample.frame.dtype} {sample.frame.shape}, not square uint8 (H, W, 3) like its shard's")
    if sample.waveform.dtype != np.int16 or sample.waveform.shape != (length,):
        refuse(f"waveform is {sample.waveform.dtype} {sample.waveform.shape}, not int16 ({length},)")
    if sample.mask is not None and (sample.mask.dtype != np.bool_ or sample.mask.shape != shape[:2]):
        refuse(f"mask is {sample.mask.dtype} {sample.mask.shape}, not bool {shape[:2]}")
    if sample.boxes is not None:
        boxes = sample.boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            refuse(f"boxes have shape {boxes.shape}, not (n, 4)")
        if not ((boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] < boxes[:, 2:]).all()):
            refuse("a box is not x0 < x1, y0 < y1 within [0, 1]")


def write_shard(path: Path, samples: Sequence[Sample], frames: FrameFormat = "raw") -> None:
    """Write ``samples``, all of one frame size and one sound length, as one shard, atomically.

    Args:
        path: of the shard.
        samples: its rows.
        frames: how their frames are held.

    Raises:
        DataError: there is no sample, or one does not fit the format; names it.
    """
    if not samples:
        raise DataError(f"{path}: a shard needs at least one sample")
    shape, length = samples[0].frame.shape, len(samples[0].waveform)
    for sample in samples:
        _check(sample, shape, length)
    height, width = shape[:2]
    columns = {name: pa.array([getattr(sample, name) for sample in samples], pa.string()) for name in _TEXT_COLUMNS}
    if frames == "raw":
        columns["frame"] = _bytes_column([sample.frame for sample in samples], height * width * 3)
    else:
        columns["frame"] = pa.array([_jpeg(sample.frame) for sample in samples], pa.large_binary())
    columns["waveform"] = _bytes_column([sample.waveform.astype("<i2") for sample in samples], 2 * length)
    columns["boxes"] = _boxes_column([sample.boxes for sample in samples])
    masks = [None if sample.mask is None else np.packbits(sample.mask) for sample in samples]
    columns["mask"] = _bytes_column(masks, -(-height * width // 8))
    columns["meta"] = pa.array([json.dumps(dict(sample.meta), sort_keys=True) for sample in samples], pa.string())
    batch = pa.record_batch(columns)
    with whole_file(path) as part, part.open("wb") as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into the prepared set's folder, atomically."""
    write_json(root / MANIFEST, manifest.model_dump())


@dataclass(frozen=True)
class ShardRows:
    """What goes into one shard.

    Attributes:
        samples: its rows.
        rejected: (what, why) of sources that could not be used.
    """

    samples: list[Sample]
    rejected: list[tuple[str, str]] = field(default_factory=list)


class MakeShard(Protocol):
    """Makes the k-th shard from k alone; a picklable instance, as worker processes call it."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        ...


class _Sidecar(StrictConfig):
    """What a finished shard was made from and holds."""

    fingerprint: str
    shard: ShardEntry | None
    counts: dict[str, int]
    rejected: list[tuple[str, str]]


def _finished(root: Path, stem: str, fingerprint: str) -> _Sidecar | None:
    """A shard's record, where the shard was made from the same rows, settings and code and is whole."""
    record = root / f"{stem}.json"
    if not record.is_file():
        return None
    try:
        sidecar = _Sidecar.model_validate_json(record.read_bytes())
    except ValidationError:
        return None  # written by another version: made again
    if sidecar.fingerprint != fingerprint:
        return None
    if sidecar.shard is not None:
        shard = root / sidecar.shard.file
        if not shard.is_file() or file_hash(shard) != sidecar.shard.sha256:
            return None
    return sidecar


@dataclass(frozen=True)
class _MakeOne:
    """Makes and writes one shard."""

    make: MakeShard
    root: Path
    stems: Sequence[str]
    fingerprints: Sequence[str]
    frames: FrameFormat

    def __call__(self, k: int) -> _Sidecar:
        rows = self.make(k)
        path = self.root / f"{self.stems[k]}.arrow"
        entry = None
        if rows.samples:
            write_shard(path, rows.samples, self.frames)
            size = path.stat().st_size
            entry = ShardEntry(file=path.name, rows=len(rows.samples), bytes=size, sha256=file_hash(path))
        counts = Counter(sample.part for sample in rows.samples)
        sidecar = _Sidecar(fingerprint=self.fingerprints[k], shard=entry, counts=dict(counts), rejected=rows.rejected)
        write_json(path.with_suffix(".json"), sidecar.model_dump())
        return sidecar


_work: Callable[[int], Any]
"""In a worker process: what it does. Sent once, as the rows of a large set are slow to send with every shard."""


def _receive(work: Callable[[int], Any]) -> None:
    global _work
    _work = work


def _do(k: int) -> Any:
    return _work(k)


def in_processes(
    work: Callable[[int], _Result], numbers: Sequence[int], workers: int, *, title: str, total: int
) -> dict[int, _Result]:
    """Call ``work`` with each number, on ``workers`` spawned processes, under a progress bar on stderr.

    Args:
        work: picklable.
        numbers: what it is called with.
        workers: processes; 1 stays in this one.
        title: of the bar.
        total: of the bar; what is more than ``numbers`` counts as done.

    Raises:
        DataError: fewer than one worker.
    """
    if workers < 1:
        raise DataError(f"workers = {workers}: at least 1 is needed")
    results: dict[int, _Result] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=total - len(numbers))
        if workers == 1 or len(numbers) < 2:
            for k in numbers:
                results[k] = work(k)
                progress.advance(task)
            return results
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(numbers)), context, _receive, (work,)) as pool:
            jobs: dict[Future[_Result], int] = {pool.submit(_do, k): k for k in numbers}
            try:
                for job in as_completed(jobs):
                    results[jobs[job]] = job.result()
                    progress.advance(task)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results


def prepare_shards(
    root: Path,
    make: MakeShard,
    n_shards: int,
    *,
    name: str,
    image_size: int,
    sample_rate: int,
    n_samples_audio: int,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    workers: int,
    frames: FrameFormat = "raw",
    keys: Sequence[str] | None = None,
) -> tuple[Manifest, list[tuple[str, str]]]:
    """Make every shard on ``workers`` processes; a second call makes only what is missing.

    The caller looks at what was rejected and then writes the manifest (``write_manifest``): until then the
    folder is no prepared set. A finished shard is kept when its key, settings, code and its own hash still agree.
    Neither ``workers`` nor what was in the folder before shows in the files. Call it under
    ``if __name__ == "__main__"``: workers are spawned.

    Args:
        root: folder of the prepared set; made where absent.
        make: makes one shard's rows; its module's source is part of what a kept shard must agree with.
        n_shards: ``make`` is called with 0 .. n_shards - 1.
        name: of the data set.
        image_size: side of the square frames, pixels.
        sample_rate: Hz.
        n_samples_audio: samples of a waveform.
        classes: all class names.
        settings: JSON values that decide the content.
        workers: processes; 1 stays in this one.
        frames: how the shards hold frames.
        keys: for each shard, a hash of all that it is made from besides the settings and the code: the shard is named
            after it, so that it outlives changes of the others. None: its number and ``n_shards`` decide.

    Returns:
        The manifest, and what was rejected with why, in shard order.

    Raises:
        DataError: fewer than one worker, or a sample that does not fit the format.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in [*root.glob(f".*{PART}"), *root.glob(MANIFEST)]:
        leftover.unlink()
    code = inspect.getsource(inspect.getmodule(type(make)) or type(make)) + Path(__file__).read_text()
    common = json.dumps([name, dict(settings), frames, code], sort_keys=True)
    own = [str(n_shards)] * n_shards if keys is None else keys
    fingerprints = [hashlib.sha256(f"{common}{key}".encode()).hexdigest() for key in own]
    stems = [f"shard-{f'{k:05d}' if keys is None else keys[k][:16]}" for k in range(n_shards)]

    sidecars = {k: sidecar for k in range(n_shards) if (sidecar := _finished(root, stems[k], fingerprints[k]))}
    missing = [k for k in range(n_shards) if k not in sidecars]
    make_one = _MakeOne(make, root, stems, fingerprints, frames)
    sidecars |= in_processes(make_one, missing, workers, title=f"{name}: shards", total=n_shards)

    ordered = [sidecars[k] for k in range(n_shards)]
    shards = [sidecar.shard for sidecar in ordered if sidecar.shard is not None]
    kept = {shard.file for shard in shards} | {f"{stem}.json" for stem in stems}
    for stale in root.glob("shard-*"):
        if stale.name not in kept:
            stale.unlink()
    rejected = [entry for sidecar in ordered for entry in sidecar.rejected]
    totals = sum((Counter(sidecar.counts) for sidecar in ordered), Counter[str]())
    manifest = Manifest(
        name=name,
        image_size=image_size,
        sample_rate=sample_rate,
        n_samples_audio=n_samples_audio,
        counts={part: totals[part] for part in PARTS if totals[part]},
        classes=list(classes),
        settings=dict(settings),
        shards=shards,
        content_hash=hashlib.sha256("\n".join(shard.sha256 for shard in shards).encode()).hexdigest(),
    )
    return manifest, rejected


class _Jpegs:
    """The frames of a shard that holds them as JPEG, indexed like an array of pixels."""

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
        """Bytes of all of them."""
        return int(self._offsets[-1] - self._offsets[0])


@dataclass(frozen=True)
class _Shard:
    """One memory-mapped shard; the arrays look into the file."""

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
        raise DataError(f"{path}: the shard is missing though {MANIFEST} lists it")
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
    """(1, 4) fractions, the smallest box around the mask; (0, 4) around nothing."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros((0, 4), dtype=np.float32)
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return (np.array([box], dtype=np.float64) / len(mask)).astype(np.float32)


class PreparedData:
    """A prepared set, memory-mapped: rows are read when asked for.

    ``index`` is everywhere an int64 array of row numbers over all shards.
    """

    def __init__(self, root: Path, manifest: Manifest, shards: Sequence[_Shard]) -> None:
        self.root = root
        self.manifest = manifest
        self._shards = shards
        self._ends = np.cumsum([len(shard.frames) for shard in shards])

    @classmethod
    def open(cls, root: Path | str) -> PreparedData:
        """Open the set in ``root``; checks the files' presence, sizes and row counts.

        Raises:
            DataError: the manifest or a shard is missing, truncated or does not agree; names the file.
        """
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise DataError(f"{path}: no such file, so this is no prepared data set (or its preparation did not end)")
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
        """Read every byte and compare with the manifest.

        Raises:
            DataError: a shard's SHA-256, or the content hash, is not what the manifest states.
        """
        for entry in self.manifest.shards:
            if file_hash(self.root / entry.file) != entry.sha256:
                raise DataError(f"{self.root / entry.file}: SHA-256 is not the one {MANIFEST} states")
        content = hashlib.sha256("\n".join(entry.sha256 for entry in self.manifest.shards).encode()).hexdigest()
        if content != self.manifest.content_hash:
            raise DataError(f"{self.root / MANIFEST}: content_hash does not follow from the shards' hashes")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _texts(self, column: str) -> list[str]:
        return [text for shard in self._shards for text in shard.table.column(column).to_pylist()]

    def _kinds(self, column: str) -> NDArray[np.object_]:
        """(rows,) str, equal ones the same object: there are few."""
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
        """The rows' unique names."""
        return self._texts("sample_id")

    @cached_property
    def source_ids(self) -> NDArray[np.object_]:
        """(rows,) str: the recording a row comes from."""
        return np.array(self._texts("source_id"), dtype=object)

    @cached_property
    def group_ids(self) -> NDArray[np.object_]:
        """(rows,) str: rows with one frame and several sounds share it."""
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
        """(rows,) bool: boxes or the exact mask are known, if only that nothing in view sounds."""
        return np.concatenate([shard.has_boxes | shard.has_mask for shard in self._shards])

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """(rows,) bool: the annotation is a mask of the exact pixels, and no boxes."""
        return np.concatenate([shard.has_mask & ~shard.has_boxes for shard in self._shards])

    @property
    def frame_bytes(self) -> int:
        """Bytes that the frames take on disk."""
        return sum(shard.frames.nbytes for shard in self._shards)

    def indices(self, part: str) -> NDArray[np.int64]:
        """Row numbers of one part, ascending; empty where the set has no such part."""
        return np.flatnonzero(self.parts == part).astype(np.int64)

    def _locate(self, index: NDArray[np.int64]) -> Iterator[tuple[_Shard, NDArray[np.intp], NDArray[np.int64]]]:
        """For each shard that holds rows of ``index``: it, positions in ``index``, rows in the shard."""
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"row {index.min()} or {index.max()} is outside 0 .. {len(self) - 1}")
        owner = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(owner):
            positions = np.flatnonzero(owner == number)
            shard = self._shards[number]
            yield shard, positions, index[positions] - (self._ends[number] - len(shard.frames))

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
        """(n,) bool: several sources sound at once."""
        return self._where(index, lambda meta: len(meta.get("sounding", ())) > 1)

    def voted(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: the boxes of every annotator are kept."""
        return self._where(index, lambda meta: "boxes_256" in meta)

    def _where(self, index: NDArray[np.int64], holds: Callable[[dict[str, Any]], bool]) -> NDArray[np.bool_]:
        found = np.empty(len(index), dtype=bool)
        for positions, metas in self._metas(index):
            found[positions] = [holds(meta) for meta in metas]
        return found

    def _metas(self, index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], list[dict[str, Any]]]]:
        """Positions in ``index`` and the rows' small JSON values, a shard at a time: a list of all may be large."""
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
        """(k, 4) float32 x0, y0, x1, y1 as fractions of the frame; None where nobody annotated.

        Where the annotation is an exact mask, the smallest box around it: for pictures, never for scores.
        """
        ((shard, _, rows),) = self._locate(np.array([i], dtype=np.int64))
        row = rows[0]
        if shard.has_boxes[row]:
            return shard.boxes[shard.box_offsets[row] : shard.box_offsets[row + 1]]
        return _bounding_box(self.object_masks(np.array([i]))[0]) if shard.has_mask[row] else None

    def truth_masks(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, H, W) bool, each row's annotation, to learn from and to be scored by.

        It is the union of the boxes that somebody drew, even where the exact mask is known too, as the published
        figures of such data are about boxes; the exact mask where there are no boxes (AVSBench, VGGSound-Instruments,
        PascalSound-style folders).

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
        """(n, H, W) bool, the union of each row's boxes; corners are truncated to pixels, half-open.

        Raises:
            DataError: nobody drew boxes for a row.
        """
        side = self.manifest.image_size
        out = np.zeros((len(index), side, side), dtype=bool)
        for shard, positions, rows in self._locate(index):
            if not shard.has_boxes[rows].all():
                bare = index[positions[~shard.has_boxes[rows]][0]]
                raise DataError(f"sample '{self.sample_ids[bare]}' has no annotation, so no box mask")
            for position, row in zip(positions, rows, strict=True):
                boxes = shard.boxes[shard.box_offsets[row] : shard.box_offsets[row + 1]]
                pixels = (boxes.astype(np.float64) * side + _PIXEL_TOLERANCE).astype(np.int64)
                for x0, y0, x1, y1 in pixels.tolist():
                    out[position, y0:y1, x0:x1] = True
        return out

    def object_masks(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, H, W) bool, the exact pixels that sound.

        Raises:
            DataError: a row's exact mask is not known.
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
