"""The content of a data set's folder: a hash of each file, which is read again only if it may have changed.

It imports nothing large, because `dvc repro` runs it every time.
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
"""File beside the prepared set with the hashes of this machine's files."""

_TABLE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID"

# A file may change twice within a tick of the file system's clock, so hashes of such recent files are not kept.
_YOUNG_NS = 10**9
# Number of files that are submitted at once, because a pool's future takes more memory than a hash.
_BATCH = 256


class AbsentError(DataError):
    """The folder does not exist on this machine."""


def content_hashes(paths: Iterable[Path], memory: Path, level: int = logging.INFO) -> dict[Path, str]:
    """SHA-256 of files, in hexadecimal; files that ``memory`` knows are not read.

    A file is known by its absolute path, size, times of modification and of status change, and inode: every change of
    content updates the second time, even if the first one is reset. Hashes are stored every few hundred files, so that
    an interrupted call can be resumed.

    Args:
        paths: the files, in any order and repeated. Files that do not exist or cannot be read are left out;
            decoding them reports the reason.
        memory: SQLite file, created if missing and updated. It is queried file by file, so that memory does not grow
            with the number of files that it knows.
        level: level of the log message about the files to read.

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
    """The key of a file; bytes, because a name may not be text."""
    return os.fsencode(path.absolute())


def folder_hashes(folder: Path, memory: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder, by their path in it with "/", in order of the paths.

    Links are followed; names that begin with a dot are skipped.

    Args:
        folder: the folder.
        memory: as in `content_hashes`.

    Raises:
        AbsentError: there is no such folder.
        DataError: it holds no files, a link leads to a folder above itself, or a name is refused by `check_name`.
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
    """Size, times and inode of a file; empty if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _read(path: Path) -> tuple[str, str]:
    """A file's stamp, empty if it may change unnoticed, and its hash, empty if it cannot be read."""
    now, stamp = time.time_ns(), _stamp(path)
    try:
        sha256 = file_hash(path)
    except OSError:
        return "", ""
    young = max(map(int, stamp.split()[1:3]), default=now) >= now - _YOUNG_NS
    return "" if young or _stamp(path) != stamp else stamp, sha256
