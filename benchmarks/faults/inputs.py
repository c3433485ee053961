"""Damaged inputs: whether a command survives each, says so in a sentence, ends, and loses no row without a word.

Every case runs in its own process, forked from one that has imported everything: its time, its greatest memory
and its exit are those of the command.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from benchmarks.faults.damage import CSV, JSON, LISTS, ROWS, Case, write_valid
from benchmarks.faults.project import make_project

from avsl.cli import main
from avsl.data.prepared.preparation import QUARANTINE
from avsl.data.prepared.reader import PreparedData

# Of the CPU, so that other work on the machine makes no hang; and by the clock, for what waits.
LIMIT_S, WAIT_S = 30, 300
LIMIT_BYTES = 2 * 10**9
# Of a process that has imported everything and done nothing. Much more is address space that is never touched.
_ADDRESS_SPACE = 24 * 10**9
# What a damage of a list or an annotation file may take away besides rows is the list itself.
_LISTS = {*CSV, *JSON, *LISTS}


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        case: what was run.
        verdict: ``used``, ``quarantined``, ``told`` (a sentence beside a result), ``refused`` (a sentence and exit code
            2), or what must not be: ``crash``, ``hang``, ``memory``, ``lost``.
        seconds: of the command, by the clock.
        peak: greatest resident memory beyond that of the process it was forked from, bytes.
        said: the sentence, or the end of the traceback.
    """

    case: Case
    verdict: str
    seconds: float
    peak: int
    said: str

    @property
    def failed(self) -> bool:
        """Whether this must not be."""
        return self.verdict in ("crash", "hang", "memory", "lost")


class Inputs:
    """Valid inputs and a project, ready for cases.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._valid = folder / "valid"
        self._project = folder / "project"
        write_valid(self._valid)
        make_project(self._project)
        prepared = _Forked(folder / "start")
        for command in ("prepare", "split"):
            code, said = prepared.run(self._project, [command])[:2]
            if code:
                raise RuntimeError(f"{command} of the valid project: {said}")

    def run(self, case: Case) -> Outcome:
        """Damage a copy of the case's input and run its command."""
        place = self._folder / f"case-{case.number}"
        shutil.copytree(self._valid / case.data, place / "input")
        if case.command.startswith("localize") and case.data == "videos":
            shutil.copytree(self._valid / "model", place / "model")
        victim = place / "input" / case.file
        case.damage(victim, np.random.default_rng(case.number))
        code, said, seconds, peak = _Forked(place).run(self._project, _arguments(case, place))
        outcome = Outcome(case, _verdict(case, place, code, said), seconds, peak, said)
        if peak > LIMIT_BYTES and not outcome.failed:
            outcome = Outcome(case, "memory", seconds, peak, said)
        shutil.rmtree(place)
        return outcome


def _arguments(case: Case, place: Path) -> list[str]:
    given, out = place / "input", place / "out"
    if case.command == "check":
        return ["data", "check", case.data, str(given), *_settings(case.data), f"root={out}"]
    if case.command == "prepare":
        return ["prepare", f"data={case.data}", f"data.{case.data}.root={given}", *_settings(case.data), f"root={out}"]
    if case.command == "import":
        return ["import-checkpoint", "--from", "ezvsl", str(given / case.file)]
    model = given if case.data == "model" else place / "model"
    films = given.parent.parent / "valid" / "videos" / "film.mp4" if case.data == "model" else given / case.file
    if case.command == "localize_folder":
        films = given
    return ["localize", str(films), "--checkpoint", str(model), "--out", str(out)]


def _settings(data: str) -> list[str]:
    """Of a data set: its annotations, and room for a damaged row or two among four."""
    own = {"folder": ["annotations=boxes.csv"], "vggss": ["test_list=test.csv", "leak=drop"], "flickr": ["leak=drop"]}
    small = ["max_broken=0.8", "duration_s=0.5", "image_size=32", "shard_rows=4096"]
    return [f"data.{data}.{setting}" for setting in (*small, *own[data])]


def _verdict(case: Case, place: Path, code: int | None, said: str) -> str:
    if code is None:
        return "hang"
    if code == 2 and said.count("\n") == 0 and said.startswith("avsl: "):
        return "refused"
    if code == 1 and case.command == "check" and "Traceback" not in said:
        return "told"
    if code != 0:
        return "crash"
    if case.command == "prepare":
        return _accounted(case, place / "out" / case.data / "prepared")
    if case.command.startswith("localize") and case.data == "videos":
        records = [json.loads(path.read_bytes()) for path in (place / "out").glob("*.json")]
        return "told" if any(record["damage"] for record in records) else "used"
    return "used"


def _accounted(case: Case, prepared: Path) -> str:
    """Whether every listed row is in the shards or in the quarantine."""
    data = PreparedData.open(prepared)
    data.verify()
    with (prepared / QUARANTINE).open(newline="") as file:
        quarantined = [row["sample_id"] for row in csv.DictReader(file)]
    here = {*data.sample_ids, *quarantined}
    expected = sum(data.manifest.expected.values())
    # Renamed files and damaged lists give other rows; their number must agree all the same.
    whole = here >= set(ROWS) or case.damage in _LISTS or case.kind in ("file names", "annotations and lists")
    if not whole or expected != len(data) + len(quarantined):
        return "lost"
    return "quarantined" if quarantined else "used"


class _Forked:
    """Runs commands in children of this process.

    Args:
        place: a folder for what they print.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir(parents=True, exist_ok=True)

    def run(self, project: Path, arguments: Sequence[str]) -> tuple[int | None, str, float, int]:
        """Exit code (None after a limit of time), what it said on stderr that is no log, seconds, greatest bytes.

        The bytes are those beyond this process's own, which the child shares at its start.
        """
        told = self._place / "stderr"
        own = psutil.Process().memory_info().rss
        start = time.perf_counter()
        pid = os.fork()
        if not pid:
            self._child(project, arguments, told)
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if done:
                break
            if seconds > WAIT_S:
                os.killpg(pid, signal.SIGKILL)
                _, _, usage = os.wait4(pid, 0)
                return None, f"killed after {WAIT_S} s", seconds, max(0, usage.ru_maxrss * 1024 - own)
            time.sleep(0.01)
        text = told.read_text(errors="replace").strip()
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGXCPU:
            return None, f"killed after {LIMIT_S} s of the CPU", seconds, max(0, usage.ru_maxrss * 1024 - own)
        if code == 2 and "avsl: " in text and "Traceback" not in text:
            text = text[text.rindex("avsl: ") :]
        return code, text, seconds, max(0, usage.ru_maxrss * 1024 - own)

    def _child(self, project: Path, arguments: Sequence[str], told: Path) -> None:
        code = 70
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 1))
            resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
            with told.open("w") as stream:
                os.dup2(stream.fileno(), 2)
            with open(os.devnull, "w") as stream:  # noqa: PTH123  # not a path of ours
                os.dup2(stream.fileno(), 1)
            sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
            _obey_permissions()
            with contextlib.chdir(project):
                code = main(list(arguments))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def _obey_permissions() -> None:
    """Give up root's right to read what a file's mode forbids, where this is root; Linux alone."""
    header = struct.pack("<Ii", 0x20080522, 0)  # version 3, this process
    held = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, held):
        raise OSError(ctypes.get_errno(), "capget")
    effective, permitted, inheritable, *high = struct.unpack("<6I", held.raw)
    kept = ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, struct.pack("<6I", effective & kept, permitted & kept, inheritable & kept, *high)):
        raise OSError(ctypes.get_errno(), "capset")
