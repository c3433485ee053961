"""The processes of a training on several devices: the first starts the others and ends after all of them."""

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

# The program of the other processes; its arguments are a folder with the task and the meeting file, and the rank.
_OTHER = "from avsl.training.loop import take_part; take_part()"
_TASK, _MEETING = "task.json", "meeting"
_PATIENCE_S = 60


class Processes(ClusterEnvironment):
    """The rank of this process among the training processes of this machine.

    Lightning's launcher would run the whole command again for each device, and cannot do so from a notebook, a test or
    a trial of a sweep.

    Args:
        rank: rank of this process, from 0.
        count: number of processes.
        meeting: file through which they connect.
        accelerator: ``cpu`` or ``gpu``.
        others: the processes that this one has started.
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
        """Wait for the other processes and form the group, directly before training.

        Raises:
            TrainingError: another process has ended.
        """
        store = distributed.FileStore(str(self._meeting), self._count)  # type: ignore[attr-defined]  # not in __all__
        if self._rank:
            store.set(f"ready {self._rank}", "")
        else:
            for rank, other in enumerate(self._others, start=1):
                while not store.check([f"ready {rank}"]):
                    _check_running(rank, other)
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
        """True, because the processes exist."""
        return True

    @property
    def main_address(self) -> str:
        """Unused, because the group exists."""
        return "localhost"

    @property
    def main_port(self) -> int:
        """Unused, because the group exists."""
        return 0

    @staticmethod
    def detect() -> bool:
        """False, so that Lightning never selects this environment itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self._count

    def set_world_size(self, size: int) -> None:
        """Do nothing, because it is known."""

    def global_rank(self) -> int:
        """Rank of this process."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing, because it is known."""

    def local_rank(self) -> int:
        """Rank of this process."""
        return self._rank

    def node_rank(self) -> int:
        """0, because there is one machine."""
        return 0


@contextmanager
def started(task: Mapping[str, Any], count: int, accelerator: str) -> Iterator[Processes]:
    """Start all processes but the first, which is this one; when the block ends, all of them have ended.

    Args:
        task: the task that `take_over` returns in the other processes.
        count: number of processes.
        accelerator: ``cpu`` or ``gpu``.

    Raises:
        TrainingError: another process has failed; its error is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / _TASK, {"count": count, "accelerator": accelerator, "task": task})
        others: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, count):
                command = [sys.executable, "-c", _OTHER, folder, str(rank)]
                # The pipe stays empty; the other process ends when this one's end closes it.
                others.append(subprocess.Popen(command, stdin=subprocess.PIPE))
            try:
                yield Processes(0, count, Path(folder) / _MEETING, accelerator, others)
            except RuntimeError:
                # The connection to a failed process may have been closed before that process ended.
                for _ in _while_running(others):
                    for rank, other in enumerate(others, start=1):
                        _check_running(rank, other)
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
    """In another process: its rank and its task. The process ends when the first one does."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    message = json.loads((folder / _TASK).read_bytes())

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return Processes(rank, message["count"], folder / _MEETING, message["accelerator"]), message["task"]


def _check_running(rank: int, other: subprocess.Popen[bytes]) -> None:
    if other.poll() not in (None, 0):
        raise TrainingError(f"process {rank} of the training ended with code {other.returncode}; its error is above")


def _while_running(others: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Iterate while one of them runs and once afterwards, for at most `_PATIENCE_S` seconds."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(other.poll() is None for other in others) and time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    yield
