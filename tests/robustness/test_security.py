"""What the package must never do with what it is given: run it, unpickle it, import it, tell its secrets."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.messages import says

from avsl.cli import main

_ROOT = Path(__file__).parents[2]
_SOURCES = sorted([*(_ROOT / "src").rglob("*.py"), *(_ROOT / "pipelines").glob("*.py")])

# Modules that run what they read, and those that expand XML's entities.
_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "shelve", "lxml", "tarfile", "zipfile"} | {
    f"xml.{name}" for name in ("dom", "etree", "sax")
}
_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "shutil.unpack_archive", "yaml.unsafe_load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pandas.read_pickle", "pd.read_pickle", "yaml.full_load"),
    *("hydra.utils.instantiate", "hydra.utils.get_class", "hydra.utils.get_object", "torch.hub.load"),
}
# What single files may do, and why it is safe there.
_ALLOWED = {
    ("src/avsl/cli.py", "importlib.import_module"): "the names are a table of constants",
    ("src/avsl/config/plugins.py", "importlib.import_module"): "params.yaml names the project's own modules",
    ("src/avsl/labels/answers.py", "zipfile"): "reads one JSON or XML file of bounded size, under its bare name",
    ("src/avsl/labels/tools/cvat.py", "xml.etree"): "writes XML; read_xml of documents.py reads it",
    ("src/avsl/labels/tools/cvat.py", "xml.etree.ElementTree"): "writes XML; read_xml of documents.py reads it",
    ("src/avsl/labels/tools/documents.py", "xml.etree"): "refuses document types, and so entities",
    ("src/avsl/labels/tools/documents.py", "xml.etree.ElementTree"): "refuses document types, and so entities",
    ("src/avsl/models/weights/pickles.py", "zipfile"): "lists names, to refuse TorchScript",
    ("src/avsl/models/weights/pickles.py", "torch.load without weights_only"): "with an unpickler that knows arrays",
    ("src/avsl/models/weights/pretrained.py", "zipfile"): "reads one named file of an archive whose hash is known",
    ("src/avsl/models/weights/pretrained.py", "tarfile"): "reads one named file of an archive whose hash is known",
    ("src/avsl/stages/seeds.py", "importlib.import_module"): "the names are constants of the stages",
}


def _faults(text: str) -> Iterator[str]:
    """What of a source is not allowed."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = {base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)}
            yield from sorted(n for n in names if any(n == m or n.startswith(f"{m}.") for m in _MODULES))
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in _CALLS or called.endswith("import_module"):
            yield called
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only"
        if given.get("allow_pickle") == "True" or given.get("shell") == "True":
            yield f"{called} with pickle or a shell"
        if called == "yaml.load" and re.search(r"^import yaml$", text, re.MULTILINE):
            yield "yaml.load, which makes any object"


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_nothing_read_is_run(path: Path) -> None:
    """No pickle, no eval, no import by a name that was read, no expanding XML, no archive, no shell."""
    found = set(_faults(path.read_text()))
    allowed = {fault for name, fault in _ALLOWED if name == path.relative_to(_ROOT).as_posix()}
    assert found == allowed


@pytest.mark.parametrize(
    "line",
    [
        *("torch.load(p)", "torch.load(p, weights_only=False)", "pickle.loads(b)", "eval(t)", "import dill", "exec(t)"),
        *("import yaml\nyaml.load(t, yaml.Loader)", "np.load(p, allow_pickle=True)", "importlib.import_module(n)"),
        *("import xml.etree.ElementTree", "from xml.dom import minidom", "subprocess.run(c, shell=True)"),
        *("from zipfile import ZipFile", "import tarfile", "hydra.utils.instantiate(c)", "from xml import etree"),
    ],
)
def test_the_search_finds_it(line: str) -> None:
    """It is not blind."""
    assert list(_faults(line))


@pytest.mark.parametrize(
    "override",
    [
        *("+framework.dmt._target_=os.mkdir", "+trainer._target_=os.mkdir", "+model.image._target_=os.mkdir"),
        *("+objective.ezvsl._target_=os.mkdir", "+_target_=os.mkdir"),
    ],
)
def test_no_setting_names_code(override: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra's key for a class to be made is a key that nobody knows."""
    assert main(["config", override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "avsl:", f"'{override.strip('+').partition('=')[0]}'")


@pytest.mark.slow
def test_secrets_of_the_environment_are_told_nowhere(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Prepared, trained, scored, registered: no file, parameter, tag, artifact or line of the log has them."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")
    secrets = {name: f"fake{k}SECRETfake{k}" for k, name in enumerate(names)}
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    caplog.set_level(logging.DEBUG)
    for command in ("run", "register"):
        settings = ["trainer.epochs=1", "framework.dmt.warmup_steps=0.25", "tracking.system_metrics=true"]
        assert main([command, *settings]) == 0
    printed = capfd.readouterr()
    told = {"log": caplog.text.encode(), "stdout": printed.out.encode(), "stderr": printed.err.encode()}
    files = {str(path): path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert any(name.endswith("mlflow.db") for name in files)
    assert any(name.endswith("MLmodel") for name in files)
    for place, content in (told | files).items():
        assert not [name for name, secret in secrets.items() if secret.encode() in content], place
