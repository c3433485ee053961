"""What CONTRIBUTING says of the repository: places, layers and the names of tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
_TEXT = (_PROJECT / "CONTRIBUTING.md").read_text()
# Tests of several modules together, which mirror no single one.
_ACROSS = {"contract", "pipeline", "robustness"}


@pytest.mark.parametrize(
    "place", sorted(set(re.findall(r"`((?:src|tests|docs)/[\w/.]*)`", _TEXT)) - {"src/avsl/objectives/mine.py"})
)
def test_places_exist(place: str) -> None:
    """Files and folders that a question of a newcomer leads to."""
    assert (_PROJECT / place).exists()


def test_layers_are_those_that_are_kept() -> None:
    """The line of layers is import-linter's contract, but for the command that checks the machine."""
    contracts = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (kept,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    (written,) = re.findall(r"Imports run one way: `([^`]*)`", _TEXT)
    assert [set(layer.split(" | ")) for layer in " ".join(written.split()).split(" → ")] == [
        set(layer.split(" | ")) for layer in kept if layer != "doctor"
    ]


def test_every_test_file_has_a_source_file() -> None:
    """tests/x/test_y.py tests src/avsl/x/y.py; a package's own tests are in test_init.py."""
    tests = [path.relative_to(_PROJECT / "tests") for path in (_PROJECT / "tests").rglob("test_*.py")]
    assert len(tests) > 100
    astray = []
    for path in tests:
        name = path.name.removeprefix("test_")
        source = _PROJECT / "src" / "avsl" / path.parent / ("__init__.py" if name == "init.py" else name)
        if path.parts[0] not in _ACROSS and not source.is_file():
            astray.append(str(path))
    assert not astray
