"""The search's truth: every trial, its values, epochs and end, in an Optuna study on SQLite.

Nothing else is needed to go on after any kill: a trial that has not ended stands there as RUNNING.
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
    """A search that cannot be started or gone on with; the message is one sentence."""


@dataclass(frozen=True)
class Trial:
    """A trial as the study has it.

    Attributes:
        number: counts from 0 in the order of proposal.
        framework: what it trains.
        values: what is searched, by the configuration's key.
        config: all of its configuration, as JSON values.
        state: complete, stopped (by the scheduler), failed or interrupted (to be gone on with).
        score: the finished model's validation CIoU@0.5 in [0, 1], or the last epoch's; None before the first.
        reason: why it ended, where it did not run to its end.
        epochs: every epoch's metrics, by epoch from 1.
        nodes: the ids of the nodes that it has run on.
        retries: how often its worker or node has died.
        run_id: of its MLflow run; None until there is one.
        recorded: whether MLflow has all of it.
        default: whether its values are those without a search.
        started: the moment of its proposal, in seconds of the epoch.
        order: the moment of its end; None before.
        seconds: that its training and export took in the session that finished it; None where it did not.
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
    """Keep a second driver out of a search's folder.

    Raises:
        SweepError: there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "study.lock", timeout=0):
            yield
    except Timeout:
        raise SweepError(f"another sweep is using {folder}") from None


def is_begun(folder: Path, resume: bool) -> bool:
    """Whether a folder holds a search.

    Raises:
        SweepError: it does, and shall not be gone on with.
    """
    there = (folder / _FILE).exists()
    if there and not resume:
        raise SweepError(
            f"{folder} holds a search already: go on with tune.resume=true, or search elsewhere with tune.storage="
        )
    return there


class Study:
    """One label ratio's search.

    Args:
        folder: of the search.
        request: what is searched.
        stated: all that the search depends on, as JSON values; it is only gone on with where they are equal.
        defaults: each framework's values without a search; they are tried first.

    Raises:
        SweepError: there is a search already and it shall not be gone on with, it was asked for otherwise, or its file
            is damaged.
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
            raise SweepError(f"the search in {folder} was asked for with another {', another '.join(differing)}")
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
        # By the trials there are: a resumed search must not draw again what the first session drew.
        seed = derive_seed(tune.seed, count) % 2**32
        if tune.sampler == "random":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                n_startup_trials=tune.startup, multivariate=True, group=True, constant_liar=True, seed=seed
            )

    def remaining(self) -> int:
        """How many trials are still to be run or gone on with."""
        ended = sum(trial.state.is_finished() for trial in self._study.trials)
        return max(0, self.request.tune.trials - ended)

    def next(self) -> Trial | None:
        """The next trial: one that was interrupted, else a proposal; None when there are enough.

        A proposal that no configuration can have is a failed trial, and followed by another.
        """
        while self._waiting:
            number = self._waiting.pop(0)
            # A proposal that a kill interrupted is completed; values that were suggested or enqueued are kept.
            if self.trial(number).config or self._propose(optuna.Trial(self._study, self._id(number))):
                return self.trial(number)
        while sum(trial.state != TrialState.WAITING for trial in self._study.trials) < self.request.tune.trials:
            asked = self._study.ask()
            if self._propose(asked):
                return self.trial(asked.number)
        return None

    def _propose(self, asked: optuna.Trial) -> bool:
        """Draw a trial's values; returns whether a configuration can have them."""
        framework = self._draw_framework(asked)
        values = {key: dimension.suggest(asked, key) for key, dimension in self.request.space(framework).items()}
        self.note(asked.number, framework=framework, values=values)
        try:
            config = self.request.config(framework, values).model_dump(mode="json")
        except ConfigError as error:
            self.fail(asked.number, str(error))
            return False
        self.note(asked.number, config=config)
        return True

    def _draw_framework(self, asked: optuna.Trial) -> str:
        frameworks = self.request.tune.frameworks
        if len(frameworks) == 1:
            return frameworks[0]
        return str(asked.suggest_categorical(_FRAMEWORK, list(frameworks)))

    def trials(self) -> list[Trial]:
        """All of them, but those that wait to be proposed or whose proposal is not complete."""
        return [
            self._read(trial)
            for trial in self._study.trials
            if trial.state.is_finished() or "config" in trial.user_attrs
        ]

    def trial(self, number: int) -> Trial:
        """One of them."""
        return self._read(self._storage.get_trial(self._id(number)))

    def _read(self, trial: FrozenTrial) -> Trial:
        said, run = trial.user_attrs, self._run(trial.number)
        epochs = {int(key.removeprefix(_EPOCH)): said[key] for key in said if key.startswith(_EPOCH)}
        last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        ended = trial.datetime_complete
        return Trial(
            number=trial.number,
            framework=said.get("framework", ""),
            values=said.get("values", {}),
            config=said.get("config", {}),
            state=_STATES[trial.state],
            score=trial.value if trial.state == TrialState.COMPLETE else last,
            reason=said.get("reason", ""),
            epochs=dict(sorted(epochs.items())),
            nodes=tuple(said.get("nodes", ())),
            retries=said.get("retries", 0),
            run_id=run.get("id"),
            recorded=run.get("recorded", False),
            default="default" in said,
            started=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
            order=None if ended is None else ended.timestamp(),
            seconds=said.get("seconds"),
        )

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_STUDY)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def note(self, number: int, **facts: Any) -> None:
        """Keep facts of a trial."""
        for key, value in facts.items():
            self._storage.set_trial_user_attr(self._id(number), key, value)

    def note_run(self, number: int | None, run_id: str, recorded: bool = False) -> None:
        """Keep which MLflow run is a trial's (None: the search's), and whether it has all of it.

        With the search, as Optuna lets nothing be added to a trial that has ended.
        """
        self._study.set_user_attr(_run_key(number), {"id": run_id, "recorded": recorded})

    def run_id(self) -> str | None:
        """The search's MLflow run; None until there is one."""
        return self._run(None).get("id")

    def _run(self, number: int | None) -> dict[str, Any]:
        found: dict[str, Any] = self._study.user_attrs.get(_run_key(number), {})
        return found

    def place(self, number: int, node: str) -> None:
        """A trial starts, or goes on, on a node."""
        self.note(number, nodes=list(dict.fromkeys([*self.trial(number).nodes, node])))

    def epoch(self, number: int, epoch: int, score: float, metrics: Mapping[str, float]) -> None:
        """An epoch of a trial has ended; one that a moved trial repeats takes the place of the first."""
        self._storage.set_trial_intermediate_value(self._id(number), epoch, score)
        self.note(number, **{f"{_EPOCH}{epoch}": dict(metrics)})

    def complete(self, number: int, score: float, seconds: float) -> None:
        """A trial has run to its end, in so many seconds."""
        self.note(number, seconds=seconds)
        self._study.tell(number, score)

    def stop(self, number: int, reason: str) -> None:
        """The scheduler has stopped a trial."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """A trial has failed."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Trial | None:
        """The finished trial with the best score, the first of equals."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        return max(complete, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)

    def for_plots(self, framework: str) -> optuna.Study:
        """A framework's ended trials as a study in memory: all have the same values, here under short names."""
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
