"""The processes of one training on several devices: the first starts the others and outlives none of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from torch import distributed

from avsl.files import write_json
from avsl.training.errors import TrainingError

# What each of the others runs; its arguments are a folder, where its task lies and all meet, and its rank.
_OTHER = "from avsl.training.loop import take_part; take_part()"
_TASK, _MEETING = "task.json", "meeting"
_PATIENCE_S = 60


class Processes(ClusterEnvironment):
    """One process's place among those that train together on this machine.

    Lightning's own launcher runs the command line once more for each device, with all that a command does besides
    training, and cannot do it for a notebook, a test or a trial of a sweep.

    Args:
        rank: of this process, from 0.
        count: of all of them.
        meeting: a file in which they find each other.
        accelerator: ``cpu`` or ``gpu``.
        others: those that this one has started.
    """

    def __init__(
        self, rank: int, count: int, meeting: Path, accelerator: str, others: Sequence[subprocess.Popen[bytes]] = ()
    ) -> None:
        self._rank = rank
        self._count = count
        self._meeting = meeting
        self._accelerator = accelerator
        self._others = others

    def meet(self) -> None:
        """Wait for the others and form the group; the last thing before training.

        Raises:
            TrainingError: one of the others has ended.
        """
        store = distributed.FileStore(str(self._meeting), self._count)  # type: ignore[attr-defined]  # not in __all__
        if self._rank:
            store.set(f"ready {self._rank}", "")
        else:
            for rank, other in enumerate(self._others, start=1):
                while not store.check([f"ready {rank}"]):
                    _look_after(rank, other)
                    time.sleep(0.05)
        gpu = self._accelerator == "gpu"
        distributed.init_process_group(
            "nccl" if gpu else "gloo",
            store=distributed.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=self._rank,
            world_size=self._count,
            device_id=torch.device("cuda", self._rank) if gpu else None,
        )

    @property
    def creates_processes_externally(self) -> bool:
        """They are there already."""
        return True

    @property
    def main_address(self) -> str:
        """Of no use where the group exists."""
        return "localhost"

    @property
    def main_port(self) -> int:
        """Of no use where the group exists."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Never chosen but by name."""
        return False

    def world_size(self) -> int:
        """How many there are."""
        return self._count

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Which one this is."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Which one this is."""
        return self._rank

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


@contextmanager
def started(task: Mapping[str, Any], count: int, accelerator: str) -> Iterator[Processes]:
    """Start all processes but this one, the first; none is left when the block ends, however it does.

    Args:
        task: for `take_over` in each of the others.
        count: of all of them.
        accelerator: ``cpu`` or ``gpu``.

    Raises:
        TrainingError: one of the others has failed; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / _TASK, {"count": count, "accelerator": accelerator, "task": task})
        others: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, count):
                command = [sys.executable, "-c", _OTHER, folder, str(rank)]
                # Nothing is written to the pipe: its end tells the other of this process's.
                others.append(subprocess.Popen(command, stdin=subprocess.PIPE))
            try:
                yield Processes(0, count, Path(folder) / _MEETING, accelerator, others)
            except RuntimeError:
                # A connection that was closed, perhaps: give one that has failed time to end.
                for _ in _while_running(others):
                    for rank, other in enumerate(others, start=1):
                        _look_after(rank, other)
                raise
            for _ in _while_running(others):
                pass
        finally:
            for other in others:
                other.kill()
                other.wait()
                if other.stdin is not None:
                    other.stdin.close()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def take_over() -> tuple[Processes, dict[str, Any]]:
    """In one of the others: its place and its task. It ends when the first process has, however that ended."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    told = json.loads((folder / _TASK).read_bytes())

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return Processes(rank, told["count"], folder / _MEETING, told["accelerator"]), told["task"]


def _look_after(rank: int, other: subprocess.Popen[bytes]) -> None:
    if other.poll() not in (None, 0):
        raise TrainingError(f"process {rank} of the training ended with code {other.returncode}; it said why above")


def _while_running(others: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Go round now and again while one of them runs, once more when none does, and no longer than our patience."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(other.poll() is None for other in others) and time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    yield
