"""The benchmark for a GPU runs from end to end on the CPU, so that it can run where minutes count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_dry_run_fills_every_cell_of_the_page(tmp_path: Path) -> None:
    """The tests pass, and every way of every step has its times; a device that is not there is refused."""
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--device", "cpu", "--quick", "--output"]
    done = subprocess.run([*command, tmp_path / "page.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "page.md").read_text()
    assert "dry run" in page
    assert "1 passed" in page
    assert "Nothing was left out" in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and " % |" in line]
    assert len(rows) == 3 * 6
    for row in rows:
        _, _, milliseconds, clips, speed_up, *_ = row.split("|")
        assert min(float(milliseconds), float(clips), float(speed_up)) > 0
