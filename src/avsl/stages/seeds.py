"""Runs a step for all seeds of the matrix in parallel, as Ray tasks."""

from __future__ import annotations

import importlib
import logging
import math
import os
import shutil
import signal
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from avsl.config.models import Config
from avsl.config.params import matrix_seeds
from avsl.errors import AvslError
from avsl.files import project_root
from avsl.logs import start_logging

if TYPE_CHECKING:
    from avsl.cluster import Interrupt

log = logging.getLogger(__name__)

# Seconds that tasks have to write checkpoints after a request to end.
_PATIENCE_S = 30.0

# The reason of a task that was interrupted.
_STOPPED = "stopped"


class SeedError(AvslError):
    """One or several seeds of a step failed; the others are complete."""


def of_every_seed(overrides: Sequence[str]) -> dict[int, list[str]]:
    """Return a step's overrides for each seed of params.yaml's ``matrix.seeds``."""
    return {seed: [*overrides, f"seed={seed}"] for seed in matrix_seeds(project_root())}


def forget_other_seeds(folder: Path, seeds: Sequence[int]) -> None:
    """Delete the outputs of a step in ``folder`` for seeds that the matrix no longer has."""
    for path in folder.glob("*"):
        if path.stem.isdecimal() and int(path.stem) not in seeds:
            log.info("%s goes: params.yaml's matrix.seeds no longer has it", path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def side_by_side(step: str, tasks: Mapping[str, Sequence[Any]], config: Config) -> None:
    """Call a step's function for several tasks at a time; a failure stops no other task.

    A single task on this machine runs in this process, with as many threads as beside others.

    Args:
        step: the function, as ``module:function``.
        tasks: its arguments by the task's name, which begins the task's lines in the terminal.
        config: configuration whose section ``parallel`` holds the resources of a task and the cluster.

    Raises:
        SeedError: some tasks failed; names them and their errors, after all have ended.
        ClusterError: the cluster does not answer or has no room.
        SystemExit: the work was interrupted; its state is kept.
    """
    resources = config.parallel
    threads = max(1, round(resources.cpus))
    if len(tasks) == 1 and not resources.address:
        torch.set_num_threads(threads)
        module, _, name = step.partition(":")
        getattr(importlib.import_module(module), name)(*next(iter(tasks.values())))
        return
    from avsl.cluster import Interrupt, cluster  # Ray takes seconds to import

    gpus = resources.gpus if config.trainer.accelerator == "gpu" else 0.0
    interrupt = Interrupt("ending; the same command continues")
    share = {"CPU": resources.cpus, "GPU": gpus}
    what = f"a training of parallel.cpus = {resources.cpus:g} and parallel.gpus = {gpus:g}"
    with interrupt.handle(), cluster(resources.address, share, what, log_to_driver=True), interrupt.handle():
        failures = call_side_by_side(step, tasks, resources.cpus, gpus, resources.retries, interrupt)
    if interrupt.requested:
        raise SystemExit(interrupt.code)
    if failures:
        raise SeedError("; ".join(f"{name}: {failure}" for name, failure in failures.items()))


def call_side_by_side(
    step: str, tasks: Mapping[str, Sequence[Any]], cpus: float, gpus: float, retries: int, interrupt: Interrupt
) -> dict[str, str]:
    """Call a function for several tasks on the running Ray cluster; a failure stops no other task.

    Args:
        step: the function, as ``module:function``.
        tasks: its arguments by the task's name, which begins the task's lines in the terminal.
        cpus: cores of a task, and its threads for arithmetic; on one machine the last tasks share them, see
            `share_cores`.
        gpus: GPUs of a task, or a share of one.
        retries: how often a task is repeated after its worker or node has died.
        interrupt: the person's request to end, which cancels the tasks.

    Returns:
        The error of each failed task by its name, without canceled tasks.
    """
    import ray  # takes seconds

    remote: Any = ray.remote(_call)
    threads = max(1, round(cpus))
    shares = [cpus] * len(tasks)
    nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    if not gpus and len(nodes) == 1:
        shares = share_cores(len(tasks), cpus, nodes[0]["Resources"]["CPU"])
    pending = {
        remote.options(name=name, num_cpus=share, num_gpus=gpus, max_retries=retries).remote(
            step, list(arguments), str(Path.cwd()), threads
        ): name
        for share, (name, arguments) in zip(shares, tasks.items(), strict=True)
    }
    failures: dict[str, str] = {}
    canceled = False
    while pending:
        done, _ = ray.wait(list(pending), timeout=_PATIENCE_S if canceled else 0.5)
        for task in done:
            name = pending.pop(task)
            try:
                failure = ray.get(task)
            except ray.exceptions.RayError as error:
                failure = "" if canceled else str(error).strip().splitlines()[-1]
            if failure and not (canceled and failure == _STOPPED):
                failures[name] = failure
                log.warning("%s failed: %s", name, failure)
        if canceled and not done:
            break
        if interrupt.requested and not canceled:
            for task in pending:
                ray.cancel(task)
            canceled = True
    return failures


def share_cores(count: int, cpus: float, cores: float) -> list[float]:
    """Cores to reserve for each of ``count`` tasks, such that no core idles while the last ones run.

    Two cores would run three equal tasks as two and then one, which leaves a core idle for a quarter of the work. The
    last tasks therefore share the cores of a full round: here all three run at once, with two thirds of a core each.
    The number of threads stays that of ``cpus``, so that results are the same.

    Args:
        count: number of tasks.
        cpus: cores that a task can use.
        cores: cores of the machine.

    Examples:
        >>> share_cores(5, cpus=1, cores=2)
        [1, 1, 0.6666, 0.6666, 0.6666]
    """
    at_once = int(cores // cpus)
    left = count % at_once if at_once else 0
    if not left or count <= at_once:
        return [cpus] * count
    # Ray reserves ten thousandths of a core.
    share = math.floor(1e4 * cpus * at_once / (at_once + left)) / 1e4
    return [cpus] * (count - at_once - left) + [share] * (at_once + left)


def _call(step: str, arguments: Sequence[Any], folder: str, threads: int) -> str:
    """Call the function in a worker; returns the reason of a failure, else an empty string."""
    os.chdir(folder)
    torch.set_num_threads(threads)
    start_logging()
    module, _, name = step.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as end:
        # `ray.cancel` interrupts as Ctrl-C does. A worker that exits would be reported as a crash, line after line.
        if end.code != 128 + signal.SIGINT:
            raise
        return _STOPPED
    except (AvslError, OSError) as error:
        return str(error)
    except Exception as error:
        # A defect logs its traceback in the task's output.
        log.warning("%s", traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return ""
