"""Ray: the nodes that trainings run on, and a person's request to end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ray reads these when it is imported: no statistics sent, every worker's lines as they are.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_COLOR_PREFIX", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from avsl.errors import AvslError

log = logging.getLogger(__name__)

_RAY: Any = ray  # leaves much of itself untyped

# Seconds that a cluster's head has for an answer.
_ANSWER_S = 10.0


class ClusterError(AvslError):
    """A Ray cluster that does not answer or has no room."""


class Interrupt:
    """Whether somebody has asked the work to end (Ctrl-C or SIGTERM); a second signal stops it at once.

    Args:
        said: what is logged at the first signal.

    Attributes:
        asked: whether somebody has.
        code: the exit code that says so, 128 and the signal's number.
    """

    def __init__(self, said: str) -> None:
        self.asked = False
        self.code = 0
        self._said = said

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Listen within; Ray replaces the handlers when it starts, so this is entered before it and after."""
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked, self.code = True, 128 + number
        log.warning("%s", self._said)


@contextmanager
def cluster(address: str, asked: dict[str, float], what: str, **options: Any) -> Iterator[None]:
    """Within, Ray runs: the cluster at ``address`` or RAY_ADDRESS, else this machine alone.

    Args:
        address: of the cluster; empty for RAY_ADDRESS, else this machine.
        asked: cores (``CPU``) and share of a GPU (``GPU``) that one task takes.
        what: a task is, with the keys that set what it takes, for the error.
        options: for ``ray.init``.

    Raises:
        ClusterError: the cluster does not answer, or no node of it can hold a task.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    start: dict[str, Any] = {"logging_level": logging.ERROR, "include_dashboard": False, **options}
    if address:
        start["address"] = address
        _check_answers(address)
    else:
        # Objects of its store are small: no task ships its data.
        start |= {"address": "local", "object_store_memory": 100 * 2**20}
    try:
        _RAY.init(**start)
    except ConnectionError as error:
        raise ClusterError(f"the Ray cluster {address} does not answer: {str(error).splitlines()[0]}") from None
    try:
        _check_room(asked, what)
        yield
    finally:
        _RAY.shutdown()


def _check_answers(address: str) -> None:
    """Ray would try for many minutes to reach a head that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto", a cluster of this machine
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ClusterError(f"the Ray cluster {address} does not answer: {error}") from None


def _check_room(asked: dict[str, float], what: str) -> None:
    """Ray would wait without end, and without a word, for a node that can hold a task."""
    nodes = [{name: node["Resources"].get(name, 0.0) for name in asked} for node in _RAY.nodes() if node["Alive"]]
    if not any(all(held[name] >= share for name, share in asked.items()) for held in nodes):
        there = "; ".join(" and ".join(f"{value:g} {name}" for name, value in held.items()) for held in nodes)
        raise ClusterError(f"no node can hold {what}: Ray's nodes have {there}")
