"""The rows of a data set in a file: memory holds where each shard begins, whatever the number of rows."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsl.data.annotation_files import as_boxes
from avsl.data.index import Entry
from avsl.data.partition import draw
from avsl.files import whole_file


@dataclass(frozen=True)
class RowFile:
    """Rows in their order, cut into shards; small to send to another process, which reads the same file.

    As a context it removes the file at its end.

    Attributes:
        path: of the file, one line of JSON a shard.
        offsets: byte at which each shard begins, and at which the last one ends.
        distinct: whether no two rows have one name; false, once in a very long while, where all differ after all.
    """

    path: Path
    offsets: Sequence[int]
    distinct: bool

    @classmethod
    def write(cls, path: Path, entries: Iterable[Entry], most: int) -> RowFile:
        """Write rows into a file.

        A shard ends where it has ``most`` rows or where a row's name says so, which two names in ``most`` do: a row
        that comes or goes changes its own shard and few others, if any, whatever the row's place in the list.

        Args:
            path: of the file.
            entries: the rows, gone through once.
            most: rows in one shard.
        """
        offsets = [0]
        hashes = array("q")  # eight bytes a row, where the names would be a hundred
        with whole_file(path) as part, part.open("wb") as stream:
            for shard in _shards(entries, most):
                stream.write(json.dumps([_values(entry) for entry in shard]).encode() + b"\n")
                offsets.append(stream.tell())
                hashes.extend(hash(entry.sample_id) for entry in shard)
        return cls(path, offsets, len(np.unique(np.asarray(hashes))) == len(hashes))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def n_shards(self) -> int:
        """How many shards there are."""
        return len(self.offsets) - 1

    def shard(self, k: int) -> Sequence[Entry]:
        """The rows of shard ``k``."""
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[k])
            text = stream.read(self.offsets[k + 1] - self.offsets[k])
        return [_entry(*values) for values in json.loads(text)]

    def __iter__(self) -> Iterator[Entry]:
        for k in range(self.n_shards):
            yield from self.shard(k)


def _shards(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    for entry in entries:
        shard.append(entry)
        if len(shard) == most or draw(f"shard:{entry.sample_id}") < 2 / most:
            yield shard
            shard = []
    if shard:
        yield shard


def _values(entry: Entry) -> list[Any]:
    """A row as JSON values, in the order of its fields."""
    return [
        entry.sample_id,
        entry.source_id,
        entry.group_id,
        entry.part,
        entry.label,
        _text(entry.picture),
        [_text(sound) for sound in entry.sounds],
        None if entry.boxes is None else entry.boxes.tolist(),
        _text(entry.mask),
        entry.time_s,
        entry.moment,
        dict(entry.meta),
        entry.broken,
        entry.sound_source,
    ]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _entry(
    sample_id: str,
    source_id: str,
    group_id: str,
    part: str,
    label: str,
    picture: str | None,
    sounds: Sequence[str | None],
    boxes: Sequence[Sequence[float]] | None,
    mask: str | None,
    *others: Any,
) -> Entry:
    return Entry(
        *(sample_id, source_id, group_id, part, label, _path(picture)),
        tuple(_path(sound) for sound in sounds),
        None if boxes is None else as_boxes(boxes),
        _path(mask),
        *others,
    )
