"""Starts Ray on the nodes that trainings run on, and handles a person's request to end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ray reads these at import: send no usage statistics, and pass every worker's lines on unchanged.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_COLOR_PREFIX", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from avsl.errors import AvslError

log = logging.getLogger(__name__)

_RAY: Any = ray  # much of it is untyped

# Seconds to wait for the head of a cluster.
_ANSWER_S = 10.0


class ClusterError(AvslError):
    """A Ray cluster that does not answer or has no room."""


class Interrupt:
    """A person's request to end the work (Ctrl-C or SIGTERM); a second signal ends it at once.

    Args:
        message: logged at the first signal.

    Attributes:
        requested: whether a signal has arrived.
        code: the exit code after it, 128 plus the signal's number.
    """

    def __init__(self, message: str) -> None:
        self.requested = False
        self.code = 0
        self._message = message

    @contextmanager
    def handle(self) -> Iterator[None]:
        """Handle signals in this context; enter it before Ray starts and after, because Ray replaces the handlers."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.code = True, 128 + number
        log.warning("%s", self._message)


@contextmanager
def cluster(address: str, resources: dict[str, float], what: str, **options: Any) -> Iterator[None]:
    """Run Ray in this context: on the cluster at ``address`` or RAY_ADDRESS, else on this machine alone.

    Args:
        address: the address of a cluster; empty for RAY_ADDRESS, else this machine.
        resources: cores (``CPU``) and share of a GPU (``GPU``) that one task takes.
        what: description of a task for the error, with the keys that set its resources.
        options: arguments of ``ray.init``.

    Raises:
        ClusterError: the cluster does not answer, or no node of it can hold a task.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    start: dict[str, Any] = {"logging_level": logging.ERROR, "include_dashboard": False, **options}
    if address:
        start["address"] = address
        _check_answers(address)
    else:
        # Tasks ship no data, so a small object store suffices.
        start |= {"address": "local", "object_store_memory": 100 * 2**20}
    try:
        _RAY.init(**start)
    except Exception as error:  # Ray raises a bare Exception if one of its processes does not start in time
        what_failed = f"the Ray cluster {address} does not answer" if address else "Ray did not start on this machine"
        raise ClusterError(f"{what_failed}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    try:
        _check_room(resources, what)
        yield
    finally:
        _RAY.shutdown()


def _check_answers(address: str) -> None:
    """Fail early: Ray tries for many minutes to reach a head that does not run."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto", a cluster of this machine
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ClusterError(f"the Ray cluster {address} does not answer: {error}") from None


def _check_room(resources: dict[str, float], what: str) -> None:
    """Fail early: Ray waits forever, and silently, for a node that can hold a task."""
    nodes = [{name: node["Resources"].get(name, 0.0) for name in resources} for node in _RAY.nodes() if node["Alive"]]
    if not any(all(node[name] >= share for name, share in resources.items()) for node in nodes):
        available = "; ".join(" and ".join(f"{value:g} {name}" for name, value in node.items()) for node in nodes)
        raise ClusterError(f"no node can hold {what}: Ray's nodes have {available}")
