"""Writes a prepared data set, shard by shard; an interrupted preparation can be resumed."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ValidationError

from avsl.console import progress_bar
from avsl.data.prepared.format import MANIFEST, PARTS, FrameFormat, Manifest, Sample, ShardEntry
from avsl.errors import DataError
from avsl.files import PART, file_hash, whole_file, write_json
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

_JPEG_QUALITY = 95


_TEXT_COLUMNS = ("sample_id", "source_id", "group_id", "part", "label")


_Result = TypeVar("_Result")


def _bytes_column(rows: Sequence[NDArray[Any] | None], width: int) -> pa.Array:
    """A fixed_size_binary column; nulls are zeros, so that equal rows give equal files."""
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
        refuse(f"part '{sample.part}' is not one of {', '.join(PARTS)}")
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
        path: path of the shard.
        samples: rows of the shard.
        frames: format of the frames.

    Raises:
        DataError: there is no sample, or a sample does not fit the format; names the sample.
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
    """The rows of one shard.

    Attributes:
        samples: usable rows.
        rejected: name and reason of each unusable row.
    """

    samples: list[Sample]
    rejected: list[tuple[str, str]] = field(default_factory=list)


class MakeShard(Protocol):
    """Makes the rows of the k-th shard; picklable, because worker processes call it."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        ...


class _Sidecar(StrictConfig):
    """The inputs and the content of a finished shard."""

    fingerprint: str
    shard: ShardEntry | None
    counts: dict[str, int]
    rejected: list[tuple[str, str]]


def _finished(root: Path, stem: str, fingerprint: str) -> _Sidecar | None:
    """A shard's record, if the shard is complete and was made from the same rows, settings and code; else None."""
    record = root / f"{stem}.json"
    if not record.is_file():
        return None
    try:
        sidecar = _Sidecar.model_validate_json(record.read_bytes())
    except ValidationError:
        return None  # from another version
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


"""The task of a worker process; sent once, because it is slow to send for every shard of a large set."""


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
        work: picklable function.
        numbers: arguments of the calls.
        workers: number of processes; 1 uses this process.
        title: title of the bar.
        total: total of the bar; the excess over ``numbers`` counts as done.

    Raises:
        DataError: fewer than one worker.
    """
    if workers < 1:
        raise DataError(f"workers = {workers}: at least 1 is needed")
    results: dict[int, _Result] = {}
    with progress_bar(title, total, completed=total - len(numbers)) as bar:
        if workers == 1 or len(numbers) < 2:
            for k in numbers:
                results[k] = work(k)
                bar.advance()
            return results
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(numbers)), context, _receive, (work,)) as pool:
            jobs: dict[Future[_Result], int] = {pool.submit(_do, k): k for k in numbers}
            try:
                for job in as_completed(jobs):
                    results[jobs[job]] = job.result()
                    bar.advance()
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
    """Make all shards with ``workers`` processes; a second call makes only missing shards.

    The caller checks the rejected rows and then writes the manifest (``write_manifest``), without which the folder is
    not a prepared set. A finished shard is kept if its key, settings, code and hash are unchanged. The files do not
    depend on ``workers`` or on the folder's previous content. Workers are spawned, so call it under
    ``if __name__ == "__main__"``.

    Args:
        root: folder of the prepared set; created if missing.
        make: makes the rows of a shard; a kept shard must have been made with the same source of its module.
        n_shards: ``make`` is called with 0 .. n_shards - 1.
        name: name of the data set.
        image_size: side of the square frames, pixels.
        sample_rate: Hz.
        n_samples_audio: samples of a waveform.
        classes: all class names.
        settings: JSON values that determine the content.
        workers: number of processes; 1 uses this process.
        frames: format of the frames.
        keys: a hash of each shard's other inputs, which names the shard's file, so that it is kept when other shards
            change; None uses its number and ``n_shards``.

    Returns:
        The manifest, and name and reason of the rejected rows, in the order of shards.

    Raises:
        DataError: fewer than one worker, or a sample that does not fit the format.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in [*root.glob(f".*{PART}"), *root.glob(MANIFEST)]:
        leftover.unlink()
    code = (
        inspect.getsource(inspect.getmodule(type(make)) or type(make))
        + Path(__file__).with_name("format.py").read_text()
        + Path(__file__).read_text()
    )
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
