"""A small project, and a file system that can be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.faults.project import make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, as the working directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, kilobytes: int) -> None:
        """Make it larger, or smaller, but never smaller than what it holds."""
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", self.folder], check=True)

    def fill(self, spare_kilobytes: int) -> None:
        """Leave so much room beside what is there."""
        system = os.statvfs(self.folder)  # files that are deleted but open count too
        self.resize((system.f_blocks - system.f_bfree) * system.f_frsize // 1024 + spare_kilobytes)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no separate file system can be mounted here: that takes root on Linux")
    yield Disk(folder)
    subprocess.run(["umount", "-l", folder], check=True)
