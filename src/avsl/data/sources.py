"""What a data set's folder holds, by content: one hash a file, read again only where the file may have changed.

Imports nothing heavy, as `dvc repro` looks at the folder every time.
"""

from __future__ import annotations

import json
import logging
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from avsl.data.errors import DataError, check_name
from avsl.files import file_hash, write_json

log = logging.getLogger(__name__)

HASHES = "source-hashes.json"
"""Beside the prepared set: what is known of the files on this machine."""

# A file may change twice within one tick of the file system's clock, so a hash of so young a file is not kept.
_YOUNG_NS = 10**9


class AbsentError(DataError):
    """The folder is not here."""


class _Known(TypedDict):
    stamp: list[int]
    sha256: str


def content_hashes(paths: Iterable[Path], memory: Path) -> dict[Path, str]:
    """SHA-256 of files, in hexadecimal; those that ``memory`` knows are not read again.

    A file is known by its absolute path, size, times of modification and of status change, and inode: whatever is
    done to a file's content moves the second time, also what sets the first one back.

    Args:
        paths: the files, in any order and repeated. Those that do not exist or cannot be read are left out: decoding
            them will tell why.
        memory: JSON file, made where absent and brought up to date.
    """
    known: dict[str, _Known] = json.loads(memory.read_bytes()) if memory.is_file() else {}
    hashes: dict[Path, str] = {}
    new: dict[Path, list[int]] = {}
    for path in set(paths):
        stamp, entry = _stamp(path), known.get(str(path.absolute()))
        if entry and entry["stamp"] == stamp:
            hashes[path] = entry["sha256"]
        elif stamp:
            new[path] = stamp
    if new:
        log.info("%d files (%.1f MB) to hash", len(new), sum(size for size, *_ in new.values()) / 1e6)
        now = time.time_ns()
        with ThreadPoolExecutor() as pool:
            read = {path: sha256 for path, sha256 in zip(new, pool.map(_hash, new), strict=True) if sha256}
        for path, sha256 in read.items():
            stamp = new[path]
            if max(stamp[1:3]) < now - _YOUNG_NS and _stamp(path) == stamp:
                known[str(path.absolute())] = {"stamp": stamp, "sha256": sha256}
        write_json(memory, known)
        hashes |= read
    return hashes


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


def _stamp(path: Path) -> list[int]:
    """Size, times and inode of a file; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino] if stat.S_ISREG(found.st_mode) else []


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError:
        return ""
