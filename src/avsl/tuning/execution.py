"""Runs trials with Ray Tune on all nodes. The study holds the state of the search; that of Ray Tune is never read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

# Ray Tune reads these at import: no progress table, no unused log files, no change of the working folder.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from avsl.cluster import Interrupt
from avsl.config.models import Config
from avsl.training.loop import warm_ups
from avsl.tuning.config import ASHAConfig, Request
from avsl.tuning.study import Study, Trial
from avsl.tuning.trial import run_trial

log = logging.getLogger(__name__)

_RAY: Any = ray  # much of it is untyped

# Environment of a trial's worker, in addition to the driver's.
WORKER = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "60", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def first_rung(request: Request, configs: Mapping[str, Config], steps_per_epoch: int) -> int:
    """Return the first epoch after which a trial may be stopped: the longest warm-up plus ``grace``.

    Args:
        request: the search.
        configs: each framework's default configuration.
        steps_per_epoch: the number of steps in an epoch.
    """
    longest = 0
    for framework, plain in configs.items():
        searched = {key: of.ends() for key, of in request.space(framework).items() if key.endswith(".warmup_steps")}
        ended = [request.config(framework, {key: end}) for key, ends in searched.items() for end in ends]
        for config in ended or [plain]:
            longest = max(longest, *warm_ups(config, steps_per_epoch * config.trainer.epochs).values())
    scheduler = request.tune.scheduler or ASHAConfig()
    return -(-longest // steps_per_epoch) + scheduler.grace


def execute(
    study: Study,
    scheduler: TrialScheduler,
    ship: Callable[[Trial], Mapping[str, Any]],
    changed: Callable[[int], None],
    interrupt: Interrupt,
) -> None:
    """Run trials until their number or the time budget is reached, or the person interrupts.

    Args:
        study: proposes and stores the trials.
        scheduler: from :func:`make_scheduler`.
        ship: makes the argument of :func:`avsl.tuning.trial.run_trial` from a trial.
        changed: called with the number of a trial after each change in the study.
        interrupt: the person's request to end.
    """
    config = study.request.tune
    if not (remaining := study.remaining()):
        return
    # Ray Tune's state, which lasts one session.
    records = study.folder / "ray"
    shutil.rmtree(records, ignore_errors=True)
    resources = {"cpu": config.resources.cpu, "gpu": config.resources.gpu}
    held = _RAY.cluster_resources()
    room = [int(held.get(name.upper(), 0) / share) for name, share in resources.items() if share]
    # tune.Tuner would pickle all its arguments, the study among them.
    with _silenced("ray.tune", "ray.train"):
        tune.run(
            run_trial,
            name=f"{time.time_ns()}",
            metric="ciou",
            mode="max",
            search_alg=_Proposals(study, ship),
            scheduler=scheduler,
            num_samples=remaining,
            max_concurrent_trials=config.concurrency or max(1, min(room)),
            reuse_actors=True,
            resources_per_trial=resources,
            storage_path=str(records.resolve()),
            stop=_End(config.time_budget, interrupt),
            max_failures=config.retries,
            callbacks=[_Bookkeeping(study, scheduler, changed)],
            raise_on_failed_trial=False,
            trial_dirname_creator=lambda trial: f"trial {trial.config['number']}",
            verbose=0,
        )
    shutil.rmtree(records, ignore_errors=True)


def make_scheduler(config: ASHAConfig | None, first: int, epochs: int, past: Sequence[Trial]) -> TrialScheduler:
    """Make the scheduler that stops poor trials early.

    Args:
        config: its settings; None stops none.
        first: the epoch of the first rung; at ``epochs`` or later no trial is stopped.
        epochs: the number of epochs of a training.
        past: trials of earlier sessions, which the new ones are compared with too.
    """
    if config is None or first >= epochs:
        none: Any = FIFOScheduler  # untyped
        return cast("TrialScheduler", none())
    return _Halving(config, first, epochs, past)


class _Halving(ASHAScheduler):
    """ASHA on each epoch's validation CIoU.

    It never stops a trial of the default values, so no search ends below them, nor a trial after its last epoch, when
    only the export remains.
    """

    def __init__(self, config: ASHAConfig, first: int, epochs: int, past: Sequence[Trial]) -> None:
        super().__init__(
            "epoch", "ciou", "max", max_t=epochs + 1, grace_period=first, reduction_factor=config.reduction
        )
        self._epochs = epochs
        self.stopped: dict[str, str] = {}
        for trial in past:
            stand_in: Any = SimpleNamespace(trial_id=f"past {trial.number}", config={})
            controller: Any = None  # ASHA does not use it
            self.on_trial_add(controller, stand_in)
            for epoch, metrics in trial.epochs.items():
                super().on_trial_result(controller, stand_in, {"epoch": epoch, "ciou": metrics["val/ciou"]})

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision != TrialScheduler.STOP:
            return decision
        if trial.config["default"] or result["epoch"] >= self._epochs:
            return TrialScheduler.CONTINUE
        self.stopped[trial.trial_id] = f"stopped by ASHA after epoch {result['epoch']}"
        return decision


class _Proposals(Searcher):
    """Hands the study's next trial to Ray Tune."""

    def __init__(self, study: Study, ship: Callable[[Trial], Mapping[str, Any]]) -> None:
        super().__init__(metric="ciou", mode="max")
        self._source = study
        self._ship = ship

    def suggest(self, trial_id: str) -> Any:
        trial = self._source.next()
        return Searcher.FINISHED if trial is None else dict(self._ship(trial))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing; :class:`_Bookkeeping` records how trials end."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing; a sweep resumes from its study."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called, since Ray Tune's state is never resumed."""
        raise NotImplementedError


class _Bookkeeping(Callback):
    """Writes the reports of trials to the study.

    A trial ends with its outcome; if its worker dies later, Ray restarts it, and its reports are ignored.
    """

    def __init__(self, study: Study, scheduler: TrialScheduler, changed: Callable[[int], None]) -> None:
        self._study = study
        self._stopped: Mapping[str, str] = getattr(scheduler, "stopped", {})
        self._changed = changed
        self._ended: set[int] = set()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        number = trial.config["number"]
        if number in self._ended:
            return
        outcome = result.get("outcome")
        if outcome == "complete":
            self._study.complete(number, result["score"], result["seconds"])
        elif outcome == "failed":
            self._study.fail(number, result["reason"])
        elif "node" in result:
            self._study.place(number, result["node"])
        else:
            self._study.epoch(number, result["epoch"], result["ciou"], json.loads(result["metrics"]))
        if outcome:
            self._end(number)
        self._changed(number)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number not in self._ended and trial.trial_id in self._stopped:
            self._study.stop(number, self._stopped[trial.trial_id])
            self._end(number)
            self._changed(number)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number in self._ended:
            return
        self._study.note(number, retries=self._study.trial(number).retries + 1)
        log.warning("trial %d: its worker or node died; it continues from its checkpoint", number)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number in self._ended:
            return
        cause = str(trial.get_error() or "no reason given").strip().splitlines()[-1]
        self._study.fail(number, f"its worker died {trial.num_failures} times: {cause}")
        self._end(number)
        self._changed(number)

    def _end(self, number: int) -> None:
        self._ended.add(number)
        trial, best = self._study.trial(number), self._study.best()
        score = "no score" if trial.score is None else f"{100 * trial.score:.1f} %"
        log.info(
            "trial %d %s: %s, %s%s%s",
            number,
            trial.framework,
            trial.state,
            score,
            f" ({trial.reason})" if trial.reason else "",
            f"; best {100 * (best.score or 0):.1f} %, {self._study.remaining()} to go" if best else "",
        )


class _End(Stopper):
    """Ends a session at its deadline or on the person's request."""

    def __init__(self, budget: float | None, interrupt: Interrupt) -> None:
        self._deadline = None if budget is None else time.monotonic() + budget
        self._interrupt = interrupt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._interrupt.requested or (self._deadline is not None and time.monotonic() >= self._deadline)


@contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Silence loggers of Ray Tune: their messages on its unused state would interleave with the sweep's."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
