"""The command line: its help, its start-up and its errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fixtures.messages import says

import avsl
from avsl.cli import STEPS, build_parser, main
from avsl.models.weights.published import PUBLISHED

COMMANDS = ("localize", "import-checkpoint", "export", *STEPS)


def test_help_names_every_command_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is listed, and every example parses."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s", text, re.MULTILINE)
    examples = [shlex.split(line.strip().split("  ")[0]) for line in text.splitlines() if line.startswith("  avsl ")]
    assert len(examples) >= 6
    for words in examples:
        build_parser().parse_args(words[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has a help page that lists its arguments."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "positional arguments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "action"),
    [
        *(("models", action) for action in ("list", "diff", "promote", "rollback", "restore")),
        *(("labels", action) for action in ("suggest", "export", "import", "forecast", "review")),
    ],
)
def test_every_action_explains_itself(command: str, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a help page."""
    with pytest.raises(SystemExit) as caught:
        main([command, action, "--help"])
    assert caught.value.code == 0
    assert f"usage: avsl {command} {action}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """Building the help loads none of the slow libraries."""
    script = (
        "import sys; from avsl.cli import build_parser; build_parser().format_help(); "
        "print([m for m in ('torch', 'numpy', 'mlflow', 'lightning', 'hydra', 'av', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mistakes_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's mistake is one line on stderr, without a traceback."""
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["localize", "none.mp4", "--checkpoint", str(tmp_path)], str(tmp_path)),
        (["localize", "none.mp4", "--ratio", "7"], "7.0"),
        (["import-checkpoint", "--from", "fnac", "best.pth"], "prepared"),
        (["config", "framework=none"], "'none'"),
        (["export", "none", "--to", "onnx"], "'none'"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says(line, "avsl:", message)


def test_every_published_method_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line names the methods without importing them: the same ones."""
    for method in PUBLISHED:
        assert build_parser().parse_args(["import-checkpoint", "--from", method, "f"]).method == method
    with pytest.raises(SystemExit):
        build_parser().parse_args(["import-checkpoint", "--from", "none", "f"])
    assert f"choose from {', '.join(map(repr, sorted(PUBLISHED)))}" in capsys.readouterr().err


def test_a_model_is_named_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A ratio and a checkpoint together are refused."""
    with pytest.raises(SystemExit) as caught:
        main(["localize", "v.mp4", "--ratio", "0.1", "--checkpoint", "folder"])
    assert caught.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, with the package's version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.split() == ["avsl", avsl.__version__]


@pytest.mark.parametrize("script", sorted((Path(__file__).parents[1] / "pipelines").glob("*.py")), ids=lambda p: p.stem)
def test_every_script_explains_itself(script: Path) -> None:
    """As the command of its name does, without importing what the step needs."""
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert f"usage: avsl {script.stem}" in done.stdout
