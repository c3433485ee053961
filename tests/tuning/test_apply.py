"""What the winner's values change in params.yaml."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest
import yaml

from avsl.config.compose import compose
from avsl.tuning.apply import apply

_PROJECT = Path(__file__).parents[2]
_VALUES = {"trainer.learning_rate": 0.00213, "framework.dmt.delta": 0.37, "framework.dmt.ema_decay": 0.9931}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's own params.yaml and choices."""
    shutil.copyfile(_PROJECT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_only_the_winners_entry_changes(copy: Path) -> None:
    """Every other line of the file, comments included, is as it was; a later winner takes the place of the first."""
    before = (copy / "params.yaml").read_text().splitlines()
    apply(copy, "dmt", 0.03, {**_VALUES, "framework.dmt.tau": 0.2})
    apply(copy, "dmt", 0.03, _VALUES)
    text = (copy / "params.yaml").read_text()
    changes = [line for line in difflib.ndiff(before, text.splitlines()) if line[0] in "-+"]
    assert [line for line in changes if line[0] == "-"] == ["-   dmt: {}"]
    assert yaml.safe_load(text)["tuned"]["dmt"] == {
        "r03": {"trainer": {"learning_rate": 0.00213}, "framework": {"dmt": {"delta": 0.37, "ema_decay": 0.9931}}}
    }


def test_what_is_written_is_what_every_command_gets(copy: Path) -> None:
    """As if it had been stated on the command line; another ratio's and framework's winners stand beside it."""
    asked = ["framework=dmt", "split.label_ratio=0.03"]
    wanted = compose([*asked, *(f"{key}={value}" for key, value in _VALUES.items())], copy)
    others = {key: compose([*asked, key], copy) for key in ("split.label_ratio=0.1", "framework=supervised")}
    length = compose(["framework=xpl"], copy).framework.settings.model_dump()["pacing"]["length"]
    apply(copy, "dmt", 0.03, _VALUES)
    assert compose(asked, copy) == wanted
    assert {key: compose([*asked, key], copy) for key in others} == others
    apply(copy, "xpl", 0.1, {"framework.xpl.pacing.shape": "root"})
    assert compose(asked, copy) == wanted
    xpl = compose(["framework=xpl", "split.label_ratio=0.1"], copy).framework.settings.model_dump()
    assert xpl["pacing"]["shape"] == "root"
    assert xpl["pacing"]["length"] == length


def test_a_file_without_the_section_gets_it(copy: Path) -> None:
    """An older params.yaml has none."""
    path = copy / "params.yaml"
    path.write_text(path.read_text().partition("# What sweeps have found")[0])
    apply(copy, "dmt", 1.0, {"framework.dmt.delta": 0.3})
    assert yaml.safe_load(path.read_text())["tuned"] == {"dmt": {"r100": {"framework": {"dmt": {"delta": 0.3}}}}}
