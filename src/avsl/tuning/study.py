"""The state of a search: every trial with its values, epochs and outcome, in an Optuna study on SQLite.

It suffices to resume a search after any kill: an unfinished trial has the state RUNNING.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from avsl.errors import AvslError
from avsl.files import whole_file
from avsl.functional.seeds import derive_seed
from avsl.schema import ConfigError
from avsl.tuning.config import Request
from avsl.tuning.space import Value

_FILE = "study.db"
_STUDY = "sweep"
_FRAMEWORK = "framework"
_EPOCH = "epoch "
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "interrupted",
}


class SweepError(AvslError):
    """A search that cannot be started or resumed; the message is one sentence."""


@dataclass(frozen=True)
class Trial:
    """A trial of the study.

    Attributes:
        number: its index from 0, in the order of proposal.
        framework: the framework that it trains.
        values: the searched values by configuration key.
        config: the whole configuration as JSON values.
        state: complete, stopped (by the scheduler), failed or interrupted (to be resumed).
        score: validation CIoU@0.5 in [0, 1] of the finished model, else of the last epoch; None before the first.
        reason: why it was stopped or failed; empty otherwise.
        epochs: the metrics of each epoch, counted from 1.
        nodes: the ids of the nodes that it ran on.
        retries: how often its worker or node died.
        run_id: the id of its MLflow run; None before there is one.
        recorded: whether MLflow has the whole trial.
        default: whether its values are the defaults.
        started: the time of its proposal, in seconds since 1970.
        order: the time of its end, in seconds since 1970; None before.
        seconds: duration of training and export in the session that finished it; None if unfinished.
    """

    number: int
    framework: str
    values: Mapping[str, Value]
    config: Mapping[str, Any]
    state: str
    score: float | None
    reason: str
    epochs: Mapping[int, Mapping[str, float]]
    nodes: tuple[str, ...]
    retries: int
    run_id: str | None
    recorded: bool
    default: bool
    started: float
    order: float | None
    seconds: float | None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a search's folder against a second driver.

    Raises:
        SweepError: another driver holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "study.lock", timeout=0):
            yield
    except Timeout:
        raise SweepError(f"another sweep is using {folder}") from None


def is_begun(folder: Path, resume: bool) -> bool:
    """Return whether a folder holds a search.

    Raises:
        SweepError: it does, and ``resume`` is false.
    """
    exists = (folder / _FILE).exists()
    if exists and not resume:
        raise SweepError(
            f"{folder} holds a search already: resume it with tune.resume=true, or search elsewhere with tune.storage="
        )
    return exists


class Study:
    """The search at one label ratio.

    Args:
        folder: the folder of the search.
        request: the search.
        stated: everything the search depends on, as JSON values; a search is only resumed if they are equal.
        defaults: each framework's default values, which are tried first.

    Raises:
        SweepError: the folder holds a search that is not to be resumed or has other settings, or its file is damaged.
    """

    def __init__(
        self, folder: Path, request: Request, stated: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Value]]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.request = request
        self.folder = folder
        path = folder / _FILE
        if not is_begun(folder, request.tune.resume):
            with whole_file(path) as part:
                self._create(part, stated, defaults)
        try:
            self._storage = _open(path)
            self._study = optuna.load_study(study_name=_STUDY, storage=self._storage)
            before = self._study.user_attrs["stated"]
        except (KeyError, SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            raise SweepError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
        if differing := sorted(key for key in before.keys() | stated.keys() if before.get(key) != stated.get(key)):
            raise SweepError(f"the search in {folder} has another {', another '.join(differing)}")
        self._study.sampler = self._sampler(len(self._study.trials))
        self._waiting = [trial.number for trial in self._study.trials if trial.state == TrialState.RUNNING]

    def _create(self, path: Path, stated: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Value]]) -> None:
        storage = _open(path)
        study = optuna.create_study(study_name=_STUDY, storage=storage, direction="maximize")
        study.set_user_attr("stated", dict(stated))
        for framework, values in defaults.items():
            self._enqueue(study, framework, values)
        storage.engine.dispose()

    def _enqueue(self, study: optuna.Study, framework: str, values: Mapping[str, Value]) -> None:
        space = self.request.space(framework)
        parameters = {space[key].name(key): space[key].to_optuna(value) for key, value in values.items()}
        study.enqueue_trial(parameters | {_FRAMEWORK: framework}, {"default": framework})

    def _sampler(self, count: int) -> BaseSampler:
        tune = self.request.tune
        # The seed depends on the number of trials: a resumed search must not repeat the draws of the first session.
        seed = derive_seed(tune.seed, count) % 2**32
        if tune.sampler == "random":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                n_startup_trials=tune.startup, multivariate=True, group=True, constant_liar=True, seed=seed
            )

    def remaining(self) -> int:
        """Return the number of trials still to be run or resumed."""
        ended = sum(trial.state.is_finished() for trial in self._study.trials)
        return max(0, self.request.tune.trials - ended)

    def next(self) -> Trial | None:
        """Return the next trial: an interrupted one, else a proposal; None if there are enough.

        A proposal that the configuration refuses is stored as a failed trial, and the next one is drawn.
        """
        while self._waiting:
            number = self._waiting.pop(0)
            # Complete a proposal that a kill interrupted; values that were suggested or enqueued stay.
            if self.trial(number).config or self._propose(optuna.Trial(self._study, self._id(number))):
                return self.trial(number)
        while sum(trial.state != TrialState.WAITING for trial in self._study.trials) < self.request.tune.trials:
            proposal = self._study.ask()
            if self._propose(proposal):
                return self.trial(proposal.number)
        return None

    def _propose(self, proposal: optuna.Trial) -> bool:
        """Draw a trial's values; returns whether the configuration accepts them."""
        framework = self._draw_framework(proposal)
        values = {key: dimension.suggest(proposal, key) for key, dimension in self.request.space(framework).items()}
        self.note(proposal.number, framework=framework, values=values)
        try:
            config = self.request.config(framework, values).model_dump(mode="json")
        except ConfigError as error:
            self.fail(proposal.number, str(error))
            return False
        self.note(proposal.number, config=config)
        return True

    def _draw_framework(self, proposal: optuna.Trial) -> str:
        frameworks = self.request.tune.frameworks
        if len(frameworks) == 1:
            return frameworks[0]
        return str(proposal.suggest_categorical(_FRAMEWORK, list(frameworks)))

    def trials(self) -> list[Trial]:
        """Return all trials whose proposal is complete."""
        return [
            self._read(trial)
            for trial in self._study.trials
            if trial.state.is_finished() or "config" in trial.user_attrs
        ]

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return self._read(self._storage.get_trial(self._id(number)))

    def _read(self, trial: FrozenTrial) -> Trial:
        facts, run = trial.user_attrs, self._run(trial.number)
        epochs = {int(key.removeprefix(_EPOCH)): facts[key] for key in facts if key.startswith(_EPOCH)}
        last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        ended = trial.datetime_complete
        return Trial(
            number=trial.number,
            framework=facts.get("framework", ""),
            values=facts.get("values", {}),
            config=facts.get("config", {}),
            state=_STATES[trial.state],
            score=trial.value if trial.state == TrialState.COMPLETE else last,
            reason=facts.get("reason", ""),
            epochs=dict(sorted(epochs.items())),
            nodes=tuple(facts.get("nodes", ())),
            retries=facts.get("retries", 0),
            run_id=run.get("id"),
            recorded=run.get("recorded", False),
            default="default" in facts,
            started=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
            order=None if ended is None else ended.timestamp(),
            seconds=facts.get("seconds"),
        )

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_STUDY)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def note(self, number: int, **facts: Any) -> None:
        """Store facts of a trial."""
        for key, value in facts.items():
            self._storage.set_trial_user_attr(self._id(number), key, value)

    def note_run(self, number: int | None, run_id: str, recorded: bool = False) -> None:
        """Store the MLflow run of a trial (None: of the search), and whether the run has the whole trial.

        The study stores it, because Optuna adds nothing to a trial that has ended.
        """
        self._study.set_user_attr(_run_key(number), {"id": run_id, "recorded": recorded})

    def run_id(self) -> str | None:
        """Return the id of the search's MLflow run; None before there is one."""
        return self._run(None).get("id")

    def _run(self, number: int | None) -> dict[str, Any]:
        found: dict[str, Any] = self._study.user_attrs.get(_run_key(number), {})
        return found

    def place(self, number: int, node: str) -> None:
        """Store that a trial starts or continues on a node."""
        self.note(number, nodes=list(dict.fromkeys([*self.trial(number).nodes, node])))

    def epoch(self, number: int, epoch: int, score: float, metrics: Mapping[str, float]) -> None:
        """Store the metrics of a trial's epoch; a restarted trial replaces those of the epochs that it repeats."""
        self._storage.set_trial_intermediate_value(self._id(number), epoch, score)
        self.note(number, **{f"{_EPOCH}{epoch}": dict(metrics)})

    def complete(self, number: int, score: float, seconds: float) -> None:
        """Store the score of a finished trial and its duration in seconds."""
        self.note(number, seconds=seconds)
        self._study.tell(number, score)

    def stop(self, number: int, reason: str) -> None:
        """Store that the scheduler has stopped a trial."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Store that a trial has failed."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Trial | None:
        """Return the finished trial with the best score, the first of equals."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        return max(complete, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)

    def for_plots(self, framework: str) -> optuna.Study:
        """Return a framework's finished and stopped trials as a study in memory, with short names of values."""
        study = optuna.create_study(direction="maximize")
        for trial in self._study.trials:
            if trial.user_attrs.get("framework") == framework and trial.state in (
                TrialState.COMPLETE,
                TrialState.PRUNED,
            ):
                short = {
                    name: name.replace(f"framework.{framework}.", "").replace("trainer.", "")
                    for name in trial.params
                    if name != _FRAMEWORK
                }
                parameters, kept = trial.params, trial.distributions
                trial.params = {short[name]: parameters[name] for name in short}
                trial.distributions = {short[name]: kept[name] for name in short}
                study.add_trial(trial)
        return study


def _run_key(number: int | None) -> str:
    return "run" if number is None else f"run {number}"


def _open(path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
