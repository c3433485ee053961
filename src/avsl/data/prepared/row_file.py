"""A file with the rows of a data set, of which memory holds one shard at a time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avsl.data.annotation_files import as_boxes
from avsl.data.index import Entry
from avsl.data.partition import hash_fraction
from avsl.files import whole_file

_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("sample_id", "source_id", "group_id", "part", "label", "picture"), pa.string()),
        "sounds": pa.list_(pa.string()),
        "boxes": pa.list_(pa.list_(pa.float64(), 4)),
        "mask": pa.string(),
        **dict.fromkeys(("time_s", "moment"), pa.float64()),
        **dict.fromkeys(("meta", "broken", "sound_source"), pa.string()),
        "in_pixels": pa.bool_(),
    }
)


@dataclass(frozen=True)
class RowFile:
    """Rows divided into shards, in a temporary file that several processes read; a context manager removes the file.

    The format is Arrow's, because a worker maps the file and decodes only its shard's record batch; Parquet would
    compress and decompress rows that are read once.

    Attributes:
        path: path of the Arrow file with one record batch per shard; `pandas.read_feather` opens it.
        n_shards: number of shards.
        distinct: whether all names differ, up to a very unlikely collision of hashes.
    """

    path: Path
    n_shards: int
    distinct: bool

    @classmethod
    def write(cls, path: Path, entries: Iterable[Entry], most: int) -> RowFile:
        """Write rows to a file.

        A shard ends after ``most`` rows, or at a row whose hash is below a limit, on average two in ``most`` rows. A
        new or removed row therefore changes its shard and at most a few others.

        Args:
            path: path of the file.
            entries: the rows, iterated once.
            most: largest number of rows in a shard.
        """
        n_shards = 0
        hashes = array("q")  # eight bytes per row instead of about a hundred for names
        with whole_file(path) as part, pa.ipc.new_file(str(part), _SCHEMA) as stream:
            for shard in _shards(entries, most):
                stream.write(pa.RecordBatch.from_pylist([_values(entry) for entry in shard], _SCHEMA))
                hashes.extend(hash(entry.sample_id) for entry in shard)
                n_shards += 1
        return cls(path, n_shards, len(np.unique(np.asarray(hashes))) == len(hashes))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)

    def shard(self, k: int) -> Sequence[Entry]:
        """Read the rows of shard ``k``."""
        with pa.memory_map(str(self.path)) as file:
            return [_entry(row) for row in pa.ipc.open_file(file).get_batch(k).to_pylist()]

    def __iter__(self) -> Iterator[Entry]:
        for k in range(self.n_shards):
            yield from self.shard(k)


def _shards(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    for entry in entries:
        shard.append(entry)
        if len(shard) == most or hash_fraction(f"shard:{entry.sample_id}") < 2 / most:
            yield shard
            shard = []
    if shard:
        yield shard


def _values(entry: Entry) -> dict[str, Any]:
    """Convert a row to Arrow values."""
    row = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    return row | {
        "picture": _text(entry.picture),
        "sounds": [_text(sound) for sound in entry.sounds],
        "boxes": None if entry.boxes is None else entry.boxes.tolist(),
        "mask": _text(entry.mask),
        "meta": json.dumps(dict(entry.meta)),
    }


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        **row
        | {
            "picture": _path(row["picture"]),
            "sounds": tuple(_path(sound) for sound in row["sounds"]),
            "boxes": None if row["boxes"] is None else as_boxes(row["boxes"]),
            "mask": _path(row["mask"]),
            "meta": json.loads(row["meta"]),
        }
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
