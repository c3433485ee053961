"""Contents of a folder: hashes follow the files, and are computed once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.messages import facts

from avsl.data.sources import AbsentError, content_hashes, folder_hashes
from avsl.errors import DataError

Hashed = Callable[[], int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, old enough to be remembered."""
    root = tmp_path / "folder"
    (root / "inner").mkdir(parents=True)
    for name in ("b", "a", "inner/c"):
        (root / name).write_text(name)
    time.sleep(1.1)
    return root


@pytest.fixture
def hashed(caplog: pytest.LogCaptureFixture) -> Hashed:
    """How many files have been read since it was last asked."""
    caplog.set_level(logging.INFO, "avsl.data.sources")

    def count() -> int:
        found = sum(int(record.getMessage().split()[0]) for record in caplog.records)
        caplog.clear()
        return found

    return count


def sha256(text: str) -> str:
    """Of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_read_once_until_it_changes(folder: Path, tmp_path: Path, hashed: Hashed) -> None:
    """Also one that changes without its size and time; what has gone is no longer listed."""
    memory = tmp_path / "memory.sqlite"
    names = ["a", "b", "inner/c"]
    expected = {name: sha256(name) for name in names}
    assert list(folder_hashes(folder, memory).items()) == list(expected.items())
    assert hashed() == 3
    assert folder_hashes(folder, memory) == expected
    assert hashed() == 0

    before = (folder / "b").stat()
    (folder / "b").write_text("x")
    os.utime(folder / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder_hashes(folder, memory) == expected | {"b": sha256("x")}
    assert hashed() == 1

    (folder / "a").unlink()
    assert list(folder_hashes(folder, memory)) == ["b", "inner/c"]


def test_a_young_hash_is_not_kept(folder: Path, tmp_path: Path, hashed: Hashed) -> None:
    """A file that has just been written may be written again within the clock's tick."""
    (folder / "d").write_text("d")
    for _ in range(2):
        folder_hashes(folder, tmp_path / "memory.sqlite")
    assert hashed() == 4 + 1


def test_what_moves_with_its_folder_keeps_its_hashes_names_and_order(folder: Path, tmp_path: Path) -> None:
    """Nothing of where the folder lies shows."""
    before = json.dumps(folder_hashes(folder, tmp_path / "memory.sqlite"))
    moved = folder.rename(tmp_path / "moved")
    assert json.dumps(folder_hashes(moved, tmp_path / "memory.sqlite")) == before


def test_links_are_followed_and_hidden_and_unreadable_files_left_out(folder: Path, tmp_path: Path) -> None:
    """A linked folder counts as one; temporary files, links to nothing and folders among files do not."""
    (folder / ".partial").write_text("half")
    (folder / "nothing").symlink_to(folder / "none")
    (folder / "self").symlink_to(folder / "self")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "e").write_text("e")
    (folder / "linked").symlink_to(tmp_path / "other")
    found = folder_hashes(folder, tmp_path / "memory.sqlite")
    assert found.keys() == {"a", "b", "inner/c", "linked/e"}
    asked = [folder / "a", folder / "a", folder / "none", folder / "self", folder / "inner"]
    assert content_hashes(asked, tmp_path / "memory.sqlite") == {folder / "a": sha256("a")}


def test_folders_without_an_end_or_files_are_refused(folder: Path, tmp_path: Path) -> None:
    """In one sentence each."""
    memory = tmp_path / "memory.sqlite"
    (folder / "inner" / "up").symlink_to(folder)
    with pytest.raises(DataError, match=facts("inner/up")):
        folder_hashes(folder, memory)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=facts("empty")):
        folder_hashes(tmp_path / "empty", memory)
    with pytest.raises(AbsentError, match=facts("none")):
        folder_hashes(tmp_path / "none", memory)


def test_a_memory_that_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    """It is no more than a memory: the sentence says what it is good for."""
    memory = tmp_path / "memory.sqlite"
    memory.write_text("no database, but long enough to be looked at " * 20)
    with pytest.raises(DataError, match=facts("memory.sqlite")):
        folder_hashes(folder, memory)
