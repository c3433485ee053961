"""Preparation of a data set: decodes its index into shards, or only checks it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from avsl.console import print_notice
from avsl.data.index import MIDDLE, Entry, Index, IndexedConfig
from avsl.data.media.audio import read_audio, scale_into_range, to_pcm16
from avsl.data.media.checks import SILENCE_DB
from avsl.data.media.container import media_duration
from avsl.data.media.image import read_mask, resize_frame
from avsl.data.media.video import read_frame
from avsl.data.partition import with_frames
from avsl.data.prepared.contact_sheet import write_contact_sheet
from avsl.data.prepared.format import PARTS, Manifest, Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.row_file import RowFile
from avsl.data.prepared.writer import ShardRows, in_processes, prepare_shards, write_manifest
from avsl.data.sources import HASHES, content_hashes
from avsl.errors import DataError
from avsl.files import write_text
from avsl.functional.boxes import box_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE = 16000
QUARANTINE = "quarantine.csv"
LEAKS = "leaks.csv"
# Share of a frame's side by which a box in pixels may exceed it.
_ROUNDING = 0.02

_Config = TypeVar("_Config", bound=IndexedConfig)


@dataclass(frozen=True)
class _Decode:
    """Decodes the rows of a shard.

    Attributes:
        root: the data set's folder.
        rows: all rows.
        image_size: side of the frames, pixels.
        duration_s: length of the sounds, s.
        silence_db: peak, relative to full scale, below which a sound is silent.
    """

    root: str
    rows: RowFile
    image_size: int
    duration_s: float
    silence_db: float = SILENCE_DB

    def __call__(self, k: int) -> ShardRows:
        samples: list[Sample] = []
        rejected: list[tuple[str, str]] = []
        for entry in self.rows.shard(k):
            try:
                samples.append(self.sample(entry))
            except DataError as error:
                # The reason is stored with the shard, which must not depend on the folder's location.
                reason = str(error).replace(f"{Path(self.root)}{os.sep}", "")
                rejected.append((entry.sample_id, reason))
        return ShardRows(samples, rejected)

    def sample(self, entry: Entry) -> Sample:
        if entry.broken:
            raise DataError(f"{entry.sample_id}: {entry.broken}")
        if entry.picture is None:
            raise DataError(f"{entry.sample_id}: no frame in the folder")
        time_s = entry.time_s
        if time_s is None and entry.moment != MIDDLE:
            time_s = entry.moment * media_duration(entry.picture)
        picture = read_frame(entry.picture, time_s)
        boxes = self._boxes(entry, picture)
        frame = resize_frame(picture, self.image_size)
        waveform, scaled = self._sound(entry, time_s)
        mask = None if entry.mask is None else read_mask(entry.mask, self.image_size)
        return Sample(
            sample_id=entry.sample_id,
            source_id=entry.source_id,
            group_id=entry.group_id,
            part=entry.part,
            label=entry.label,
            frame=frame,
            waveform=waveform,
            boxes=boxes,
            mask=mask,
            meta={**entry.meta, "scaled": True} if scaled else entry.meta,
        )

    def _boxes(self, entry: Entry, picture: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        if entry.boxes is None:
            return None
        given = entry.boxes
        if entry.in_pixels:
            height, width = picture.shape[:2]
            given = given / (width, height, width, height)
            if (given > 1 + _ROUNDING).any():
                said = f"a box leaves its frame of {width} x {height} pixels: {entry.boxes.tolist()}"
                raise DataError(f"{entry.sample_id}: {said}")
        boxes = clean_boxes(given, self.image_size)
        if len(given) and not len(boxes):
            # An empty list of boxes would mean that nothing in view sounds.
            raise DataError(f"{entry.sample_id}: none of its {len(given)} boxes covers a pixel")
        return boxes

    def _sound(self, entry: Entry, time_s: float | None) -> tuple[NDArray[np.int16], bool]:
        """The sum of a row's sounds, and whether one of them or the sum was above full scale."""
        start = None if time_s is None else time_s - self.duration_s / 2
        total = np.zeros(round(self.duration_s * SAMPLE_RATE), dtype=np.float32)
        for path in entry.sounds:
            if path is None:
                raise DataError(f"{entry.sample_id}: no sound in the folder")
            total += read_audio(path, start, self.duration_s, SAMPLE_RATE, self.silence_db)
        waveform, scaled = scale_into_range(total)
        return to_pcm16(waveform), scaled


def clean_boxes(boxes: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Clamp boxes to [0, 1] and drop those without a pixel in a size × size frame or with NaN.

    Args:
        boxes: (k, 4) x0, y0, x1, y1; a few of VGG-SS hold -2.88e16, some have no width or height.
        size: side of the frame in pixels.

    Returns:
        (k', 4), k' <= k.
    """
    boxes = np.clip(boxes[~np.isnan(boxes).any(axis=1)], 0.0, 1.0)
    pixels = box_pixels(boxes, size)
    return boxes[(pixels[:, :2] < pixels[:, 2:]).all(axis=1)].astype(np.float32)


def prepare_index(name: str, read: Callable[[_Config], Index], config: _Config, root: Path, workers: int) -> Manifest:
    """Decode all rows of a data set into the prepared set ``root``.

    Unusable rows are listed in ``quarantine.csv`` with the reason, dropped leaks in ``leaks.csv``. Existing shards are
    kept if their rows and the contents of their files are the same, so that an interrupted call can be resumed and a
    changed or added clip rewrites only its shard. The result does not depend on this or on ``workers``.

    Args:
        name: name of the data set.
        read: makes the index of the data set.
        config: settings of the data set.
        root: folder of the prepared set.
        workers: number of processes, at least 1.

    Raises:
        DataError: the folder, its annotations or its lists cannot be used, or more than ``config.max_broken`` of the
            rows are unusable.
    """
    index = read(config)
    leaks, left_out, notes = index.leaks, index.left_out, index.notes
    # Beside the prepared set, because DVC hashes the set's folder and the system's temporary folder may be in memory.
    with _listed(index, config, root.with_name(f".{root.name}.rows")) as rows:
        del index  # frees the list of all rows
        _check_ids(config.root, rows)
        manifest, rejected = _prepare(name, rows, config, root, workers)
        expected = Counter(entry.part for entry in rows)
        broken = {sample_id for sample_id, _ in rejected}
        n_boxes = sum(len(row.boxes) for row in rows if row.boxes is not None and row.sample_id not in broken)
        n_rows = expected.total()
    # The other settings only choose the rows, which are in the shards' keys.
    stated = config.model_dump(exclude={"root"}) | {"decoder_sha256": _decoder(), "leaks_dropped": len(leaks)}
    manifest = manifest.model_copy(
        update={"expected": {part: expected[part] for part in PARTS if expected[part]}, "settings": stated}
    )
    _write_table(root / QUARANTINE, ("sample_id", "reason"), rejected)
    _write_table(
        root / LEAKS,
        ("sample_id", "part", "shares"),
        ((leak.sample_id, leak.part, "row" if leak.same else "source") for leak in leaks),
    )
    counted = f"{n_rows - len(rejected)} of {n_rows} samples prepared, {len(rejected)} in {QUARANTINE}, "
    counted += f"{len(leaks)} leaks dropped, {left_out} rows left out to keep the sides apart"
    for note in (*notes, counted):
        print_notice(f"{name}: {note}")
    if len(rejected) > config.max_broken * n_rows:
        raise DataError(
            f"{config.root}: {len(rejected)} of {n_rows} samples are unusable, more than max_broken = "
            f"{config.max_broken} allows ({root / QUARANTINE} lists them; the first: {rejected[0][1]})"
        )
    write_manifest(root, manifest)
    data = PreparedData.open(root)
    if dropped := n_boxes - data.n_boxes:
        print_notice(f"{name}: {dropped} boxes without a pixel dropped")
    write_contact_sheet(data)
    _print_cost(name, config, data)
    _print_scaled(name, data)
    return manifest


def _listed(index: Index, config: IndexedConfig, path: Path) -> RowFile:
    """Write all rows to a file."""
    return RowFile.write(path, with_frames(index.entries, config), config.shard_rows)


def _check_ids(root: str, rows: RowFile) -> None:
    if not rows.n_shards:
        raise DataError(f"{root}: nothing to prepare")
    if not rows.distinct:
        name, times = Counter(entry.sample_id for entry in rows).most_common(1)[0]
        if times > 1:
            raise DataError(f"{root}: {times} rows are named '{name}'")


def _prepare(
    name: str, rows: RowFile, config: IndexedConfig, root: Path, workers: int
) -> tuple[Manifest, list[tuple[str, str]]]:
    """Make the shards; returns the result of `prepare_shards`."""
    decode = _Decode(config.root, rows, config.image_size, config.duration_s, config.silence_db)
    hashing = _Key(rows, root.with_name(HASHES))
    keys = in_processes(hashing, range(rows.n_shards), 1, title=f"{name}: files", total=rows.n_shards)
    return prepare_shards(
        root,
        decode,
        rows.n_shards,
        name=name,
        image_size=config.image_size,
        sample_rate=SAMPLE_RATE,
        n_samples_audio=round(config.duration_s * SAMPLE_RATE),
        classes=sorted({entry.label for entry in rows} - {""}),
        settings={
            "duration_s": config.duration_s,
            "image_size": config.image_size,
            "silence_db": config.silence_db,
            "decoder_sha256": _decoder(),
        },
        workers=workers,
        frames=config.frames,
        keys=[keys[k] for k in range(rows.n_shards)],
    )


def _decoder() -> str:
    """SHA-256 of the decoding code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].joinpath("media").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _print_cost(name: str, config: IndexedConfig, data: PreparedData) -> None:
    """Print the size of the set on disk, and the share of its frames."""
    total = sum(shard.bytes for shard in data.manifest.shards)
    said = f"{total / 1e6:,.1f} MB on disk, {total / len(data) / 1e3:,.1f} kB a row, of which its frame as "
    said += f"{config.frames} {data.frame_bytes / len(data) / 1e3:,.1f} kB"
    if config.frames != "raw":
        said += f" (raw {config.image_size**2 * 3 / 1e3:,.1f} kB)"
    print_notice(f"{name}: {said}")


def _print_scaled(name: str, data: PreparedData) -> None:
    scaled = int(data.scaled(np.arange(len(data))).sum())
    if scaled:
        said = f"{name}: {scaled} of {len(data)} sounds were louder than full scale and are scaled to it"
        print_notice(said)


@dataclass(frozen=True)
class _Key:
    """The hash of a shard's inputs, computed shard by shard.

    Attributes:
        rows: all rows.
        memory: file with the hashes of files.
    """

    rows: RowFile
    memory: Path

    def __call__(self, k: int) -> str:
        """SHA-256 of a shard's rows and the contents of their files."""
        entries = self.rows.shard(k)
        files = [path for entry in entries for path in entry.files() if path is not None]
        hashes = content_hashes(files, self.memory, logging.DEBUG)

        def content(path: Path | None) -> list[str] | None:
            # The suffix determines how a file is read.
            return [path.suffix, hashes.get(path, "")] if path else None

        key = hashlib.sha256()
        for entry in entries:
            names = (entry.sample_id, entry.source_id, entry.group_id, entry.part, entry.label)
            known = [*names, entry.time_s, entry.broken, *([entry.moment] if entry.moment != MIDDLE else [])]
            known += ["pixels"] if entry.in_pixels else []
            boxes = None if entry.boxes is None else entry.boxes.tolist()
            contents = [content(entry.picture), [content(path) for path in entry.sounds], content(entry.mask)]
            key.update(json.dumps([known, boxes, dict(entry.meta), contents]).encode())
        return key.hexdigest()


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # Readers of CSV end a row at a carriage return, which the csv module does not quote.
    writer.writerows([header, *([cell.replace("\r", "\\r") for cell in row] for row in rows)])
    write_text(path, text.getvalue())


@dataclass(frozen=True)
class PartState:
    """The state of one part of a data set's folder.

    Attributes:
        part: its name.
        listed: number of rows in the data set's lists.
        missing: number of rows with a missing file.
        broken: number of rows with an unusable file or annotation.
        annotated: number of usable rows with boxes or a mask.
        example: why the first unusable row is unusable; empty if all are usable.
    """

    part: str
    listed: int
    missing: int
    broken: int
    annotated: int
    example: str

    @property
    def usable(self) -> int:
        """Number of rows that can be prepared."""
        return self.listed - self.missing - self.broken


@dataclass(frozen=True)
class _Look:
    """Decodes the rows of a shard and returns (part, annotated, missing, reason) of each."""

    decode: _Decode

    def __call__(self, k: int) -> list[tuple[str, bool, bool, str]]:
        problems = []
        for entry in self.decode.rows.shard(k):
            try:
                self.decode.sample(entry)
            except DataError as error:
                missing = any(path is None or not path.is_file() for path in entry.files())
                problems.append((entry.part, entry.annotated, missing, str(error)))
        return problems


def check_index(name: str, index: Index, config: IndexedConfig, workers: int) -> list[PartState]:
    """Decode all rows without writing them, and count missing and broken rows by part.

    Raises:
        DataError: the index is empty or has a row twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = _listed(index, config, Path(folder) / "rows")
        _check_ids(config.root, rows)
        decode = _Decode(config.root, rows, config.image_size, config.duration_s, config.silence_db)
        look, shards = _Look(decode), range(rows.n_shards)
        found = in_processes(look, shards, workers, title=f"{name}: looking", total=rows.n_shards)
        listed = Counter(entry.part for entry in rows)
        annotated = Counter(entry.part for entry in rows if entry.annotated)
    states = []
    for part in PARTS:
        if listed[part]:
            here = [problem for k in shards for problem in found[k] if problem[0] == part]
            boxes = annotated[part] - sum(has_boxes for _, has_boxes, _, _ in here)
            absent = sum(missing for *_, missing, _ in here)
            states.append(PartState(part, listed[part], absent, len(here) - absent, boxes, here[0][3] if here else ""))
    return states
