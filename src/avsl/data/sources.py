"""What a data set's folder holds, by content: one hash a file, read again only where the file may have changed.

Imports nothing heavy, as `dvc repro` looks at the folder every time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from avsl.errors import DataError, check_name
from avsl.files import file_hash

log = logging.getLogger(__name__)

HASHES = "file-hashes.sqlite"
"""Beside the prepared set: what is known of the files on this machine."""

_TABLE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID"

# A file may change twice within one tick of the file system's clock, so a hash of so young a file is not kept.
_YOUNG_NS = 10**9
# Files handed to the threads at a time: what a pool holds of each takes more than the hash itself.
_BATCH = 256


class AbsentError(DataError):
    """The folder is not here."""


def content_hashes(paths: Iterable[Path], memory: Path, level: int = logging.INFO) -> dict[Path, str]:
    """SHA-256 of files, in hexadecimal; those that ``memory`` knows are not read again.

    A file is known by its absolute path, size, times of modification and of status change, and inode: whatever is
    done to a file's content moves the second time, also what sets the first one back. What was read is remembered every
    few hundred files, so that a killed call has not read them in vain.

    Args:
        paths: the files, in any order and repeated. Those that do not exist or cannot be read are left out: decoding
            them will tell why.
        memory: SQLite file, made where absent and brought up to date. It is asked file by file, so that a caller who
            comes with a few files at a time holds no more than these, however many it knows.
        level: of the line in the log that says how much is read.

    Raises:
        DataError: ``memory`` cannot be read or written.
    """
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(memory, timeout=60)) as known:
            known.execute(_TABLE)
            return _content_hashes(set(paths), known, level)
    except sqlite3.Error as error:
        raise DataError(f"{memory}: cannot be used ({error}); without it every file is read again") from error


def _content_hashes(paths: Iterable[Path], known: sqlite3.Connection, level: int) -> dict[Path, str]:
    hashes: dict[Path, str] = {}
    new: list[Path] = []
    size = 0
    for path in paths:
        stamp = _stamp(path)
        if not stamp:
            continue
        row = known.execute("SELECT sha256 FROM files WHERE path = ? AND stamp = ?", (_key(path), stamp)).fetchone()
        if row:
            hashes[path] = row[0]
        else:
            new.append(path)
            size += int(stamp.partition(" ")[0])
    if new:
        log.log(level, "%d files (%.1f MB) to hash", len(new), size / 1e6)
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(new), _BATCH):
                batch = new[start : start + _BATCH]
                read = list(zip(batch, pool.map(_read, batch), strict=True))
                hashes |= {path: sha256 for path, (_, sha256) in read if sha256}
                rows = [(_key(path), stamp, sha256) for path, (stamp, sha256) in read if stamp]
                with known:
                    known.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    return hashes


def _key(path: Path) -> bytes:
    """A file's name in the memory; bytes, as it may be no text."""
    return os.fsencode(path.absolute())


def folder_hashes(folder: Path, memory: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder, by their path in it with "/", in order of the paths.

    Links are followed; names that begin with a dot are passed over.

    Args:
        folder: the folder.
        memory: as in `content_hashes`.

    Raises:
        AbsentError: there is no such folder.
        DataError: it holds no files, a link in it leads to a folder above itself, or a name is no line of text.
    """
    if not folder.is_dir():
        raise AbsentError(f"{folder}: no such folder")
    hashes = content_hashes(_files(folder, ()), memory)
    if not hashes:
        raise DataError(f"{folder} holds no files")
    return dict(sorted((path.relative_to(folder).as_posix(), sha256) for path, sha256 in hashes.items()))


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        raise DataError(f"{folder} is a link to a folder above itself")
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        check_name(path)
        if path.is_dir():
            yield from _files(path, (*above, real))
        else:
            yield path


def _stamp(path: Path) -> str:
    """Size, times and inode of a file; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _read(path: Path) -> tuple[str, str]:
    """A file's stamp, empty where it may change unseen, and its hash, empty where it cannot be read."""
    now, stamp = time.time_ns(), _stamp(path)
    try:
        sha256 = file_hash(path)
    except OSError:
        return "", ""
    young = max(map(int, stamp.split()[1:3]), default=now) >= now - _YOUNG_NS
    return "" if young or _stamp(path) != stamp else stamp, sha256
