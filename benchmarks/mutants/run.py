"""Applies single-line mutations to a copy of the project and runs the tests that must die with each.

Run from the project's folder; resumable: what was found for the same sources and tests is kept.

    python -m benchmarks.mutants.run [NAME ...]
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mutants.table import MUTANTS, Mutant

_HERE = Path(__file__).parent
_PROJECT = _HERE.parents[1]
_COPIED = ("src", "tests", "pipelines", "params.yaml", "dvc.yaml", "pyproject.toml")
# pytest's exit code where tests failed; others say that none ran.
_DEAD, _ALIVE = 1, 0
_PATIENCE_S = 600
# Imported once, before the processes that run the tests are forked: most of a test's time would be these imports.
_LIBRARIES = ("lightning", "torchmetrics", "torchvision", "timm", "hydra", "mlflow", "pyarrow", "hypothesis", "pytest")


def main(names: Sequence[str]) -> int:
    """Run the mutants of these names, or all; print which live, and write results.md.

    Returns:
        How many live, or could not be applied or tested.
    """
    kept_in = _HERE / "results.json"
    known = json.loads(kept_in.read_text()) if kept_in.is_file() else {}
    bad = 0
    for library in _LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in _COPIED:
            source = _PROJECT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for mutant in [m for m in MUTANTS if not names or m.name in names]:
            stamp = _stamp(mutant)
            if known.get(mutant.name, {}).get("stamp") != stamp:
                outcome, seconds = _try(mutant, copy)
                known[mutant.name] = {"stamp": stamp, "outcome": outcome, "seconds": round(seconds, 1)}
                kept_in.write_text(json.dumps(known, indent=1) + "\n")
            outcome = known[mutant.name]["outcome"]
            bad += outcome != "dead"
            print(f"{outcome:8} {mutant.name}", flush=True)
    (_HERE / "results.md").write_text(_table(known))
    print(f"{bad} not dead")
    return bad


def _try(mutant: Mutant, copy: Path) -> tuple[str, float]:
    """Whether a test dies with the mutant, and the seconds that took; the copy is left as it was."""
    path = copy / "src" / "avsl" / mutant.file
    right = path.read_text()
    if right.count(mutant.line) != 1:
        return "stale", 0.0
    started = time.perf_counter()
    path.write_text(right.replace(mutant.line, mutant.by))
    tests = multiprocessing.get_context("fork").Process(target=_run_tests, args=(copy, mutant.tests))
    try:
        tests.start()
        tests.join(_PATIENCE_S)
        code = tests.exitcode
    finally:
        tests.kill()
        path.write_text(right)
    seconds = time.perf_counter() - started
    return ("too slow" if code is None else {_DEAD: "dead", _ALIVE: "LIVES"}.get(code, f"pytest {code}")), seconds


def _run_tests(copy: Path, tests: Sequence[str]) -> None:
    """In a process that has not imported the project yet: run tests of the copy and exit with pytest's code."""
    import pytest

    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(copy), str(copy / "src")]
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]))


def _stamp(mutant: Mutant) -> str:
    """Of the mutant, the file it changes and its tests."""
    files = [_PROJECT / "src" / "avsl" / mutant.file]
    files += [_PROJECT / "tests" / test.partition("::")[0] for test in mutant.tests]
    return hashlib.sha256(repr(mutant).encode() + b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _table(known: dict[str, dict[str, object]]) -> str:
    not_run = {"outcome": "not run", "seconds": ""}
    found = {m.name: known.get(m.name, not_run) for m in MUTANTS}
    dead = sum(result["outcome"] == "dead" for result in found.values())
    run = sum(m.name in known for m in MUTANTS)
    lines = ["# Mutants", "", "`python -m benchmarks.mutants.run`, resumable.", ""]
    lines += [f"Of {len(MUTANTS)} mutants {run} were run, and {dead} are dead.", ""]
    lines += ["| mutant | file | outcome | tests | s |", "| --- | --- | --- | --- | --- |"]
    for m in MUTANTS:
        tests = ", ".join(f"`{test}`" for test in m.tests)
        lines.append(f"| {m.name} | `{m.file}` | {found[m.name]['outcome']} | {tests} | {found[m.name]['seconds']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
