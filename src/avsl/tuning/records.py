"""The MLflow runs of a sweep: a parent run and a child run for each trial. MLflow may be unreachable for a while."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from avsl.config.models import Config
from avsl.records import RunRecord
from avsl.tracking.runs import RunTags, TrackedRun, start_or_resume_run
from avsl.tracking.store import Store, TrackingError, open_store
from avsl.tuning.study import Study, Trial

log = logging.getLogger(__name__)

_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_RETRY_S = 10.0
# Seconds beyond the patience at the end of a search, for an MLflow that answers.
_GRACE_S = 60.0


@dataclass(frozen=True)
class Origin:
    """The facts that all runs of a search share.

    Attributes:
        config: the default configuration.
        data_hash: the content hash of the prepared set.
        split_hash: the content hash of the split.
        git_commit: the commit of the code.
        ratio: the label ratio as file names have it.
    """

    config: Config
    data_hash: str
    split_hash: str
    git_commit: str
    ratio: str

    def tags(self, framework: str) -> RunTags:
        """Return the tags of a run of ``framework``."""
        return RunTags(
            framework=framework,
            objective=self.config.objective.name,
            label_ratio=self.config.split.label_ratio,
            seed=self.config.seed,
            data_hash=self.data_hash,
            split_hash=self.split_hash,
            git_commit=self.git_commit,
            dvc_stage=f"sweep@{self.ratio}",
        )


class Records:
    """Copies the study to MLflow in a separate thread, for which a sweep never waits.

    Failed writes are repeated until :meth:`close`, and by the next session of the same search.

    Args:
        study: the study to copy.
        origin: the facts that all runs share.
        configure: returns a trial's configuration.
        shown: the parameters of the parent run.
    """

    def __init__(
        self, study: Study, origin: Origin, configure: Callable[[Trial], Config], shown: Mapping[str, Any]
    ) -> None:
        # By default MLflow retries each call for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._study = study
        self._origin = origin
        self._configure = configure
        self._shown = shown
        self._store: Store | None = None
        self._runs: dict[int, TrackedRun] = {}
        self._written: dict[int, int] = {}
        self._parent: TrackedRun | None = None
        self._changed = {trial.number for trial in study.trials() if not trial.recorded}
        self._down = False
        self._deadline: float | None = None
        self._grace = 0.0
        self._defect: Exception | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def changed(self, number: int) -> None:
        """Note that a trial has changed in the study."""
        with self._news:
            self._changed.add(number)
            self._news.notify()

    def close(self, patience: float, grace: float = _GRACE_S) -> list[int]:
        """Write the remaining changes and end the thread.

        Args:
            patience: seconds for which failed writes are repeated.
            grace: additional seconds for a store that answers.

        Returns:
            The numbers of trials that MLflow lacks in part or in whole.
        """
        with self._news:
            self._changed |= self._unrecorded() | {t.number for t in self._study.trials() if t.run_id and not t.order}
            self._deadline, self._grace = time.monotonic() + patience, grace
            self._news.notify()
        # A single call may outlast both.
        self._thread.join(patience + 2 * grace)
        if self._defect is not None:
            raise self._defect
        with self._news:
            return sorted(self._changed | self._unrecorded())

    def _unrecorded(self) -> set[int]:
        """Return the ended trials, refused proposals included, that MLflow lacks in part or in whole."""
        return {trial.number for trial in self._study.trials() if trial.order and not trial.recorded}

    def parent(self) -> tuple[Store, TrackedRun]:
        """Return the store and the sweep's run; call it after :meth:`close`.

        Raises:
            TrackingError: the store fails, or has not answered yet.
        """
        if self._thread.is_alive():  # it may be opening the run at this moment
            raise TrackingError("MLflow has not answered yet")
        return self._open()

    def open_seed(self, trial: Trial, how: RunRecord) -> TrackedRun:
        """Open a run below the sweep's for a trial's training with another seed; call it after :meth:`close`."""
        store, parent = self.parent()
        config = self._configure(trial).model_copy(update={"seed": how.seed})
        tags = replace(self._origin.tags(trial.framework), seed=how.seed, split_hash=how.split_hash)
        name = f"trial {trial.number} {trial.framework} seed {how.seed}"
        run = start_or_resume_run(store, config.data.name, name, tags, config.model_dump(mode="json"))
        run.set_tags({"mlflow.parentRunId": parent.run_id, "kind": "seed", "trial": str(trial.number)})
        return run

    def _run(self) -> None:
        try:
            while self._write_next():
                pass
        except Exception as error:  # raised again by close
            self._defect = error

    def _write_next(self) -> bool:
        """Wait for a change of a trial and write it; returns whether there may be more."""
        with self._news:
            self._news.wait_for(lambda: self._changed or self._deadline is not None)
            if not self._changed:
                return False
            number = min(self._changed)
            self._changed.discard(number)
        try:
            self._write(number)
            self._down = False
            return self._deadline is None or time.monotonic() < self._deadline + self._grace
        except TrackingError as error:
            if not self._down:
                log.warning("%s; the sweep continues and writes it later", error)
            self._down = True
        with self._news:
            self._changed.add(number)
            self._news.wait_for(lambda: self._deadline is not None, _RETRY_S)
        if self._deadline is None:
            return True
        time.sleep(1)
        return time.monotonic() < self._deadline

    def _open(self) -> tuple[Store, TrackedRun]:
        config = self._origin.config
        if self._store is None:
            self._store = replace(open_store(config.tracking, config.root), system_metrics=False)
        if self._parent is None:
            tune = self._study.request.tune
            name = f"sweep {'+'.join(tune.frameworks)} {self._origin.ratio} {tune.name}"
            known = self._study.run_id()
            tags = self._origin.tags("+".join(tune.frameworks))
            parent = start_or_resume_run(self._store, config.data.name, name, tags, self._shown, known)
            self._study.note_run(None, parent.run_id)
            parent.set_tags(
                {
                    "kind": "sweep",
                    "results": tune.results or str(self._study.folder),
                    "space": json.dumps(self._shown["space"]),
                }
            )
            self._parent = parent  # last: an error above repeats all of it
        return self._store, self._parent

    def _write(self, number: int) -> None:
        store, parent = self._open()
        trial = self._study.trial(number)
        if trial.recorded:  # an earlier change wrote the trial's newer state
            return
        if number not in self._runs:
            name = f"trial {number} {trial.framework}{' (defaults)' if trial.default else ''}"
            tags, experiment = self._origin.tags(trial.framework), self._origin.config.data.name
            params = self._configure(trial).model_dump(mode="json") if trial.config else dict(trial.values)
            opened = start_or_resume_run(store, experiment, name, tags, params, trial.run_id)
            self._study.note_run(number, opened.run_id)
            opened.set_tags({"mlflow.parentRunId": parent.run_id, "kind": "trial", "trial": str(number)})
            self._runs[number] = opened
        run = self._runs[number]
        for epoch, metrics in trial.epochs.items():
            if epoch > self._written.get(number, 0):
                run.log_epoch(metrics, epoch)
                self._written[number] = epoch
        if trial.order is None:
            if self._deadline is not None:  # the session ends before the trial
                run.set_tags({"state": trial.state})
                run.finish("KILLED")
            return
        if trial.state == "complete" and trial.score is not None:
            run.log_epoch({"validation/ciou": trial.score}, max(trial.epochs, default=0))
        run.set_tags({"state": trial.state, "stop_reason": trial.reason, "retries": str(trial.retries)})
        run.finish(_STATUS[trial.state])
        ended = sorted((t for t in self._study.trials() if t.order is not None), key=lambda t: t.order or 0.0)
        best = 0.0
        for k, earlier in enumerate(ended, 1):
            if earlier.state == "complete":
                best = max(best, earlier.score or 0.0)
            if earlier.number == number:
                scored = {} if trial.score is None else {"trial/ciou": trial.score}
                parent.log_epoch({"best/ciou": best, **scored}, k)
        self._study.note_run(number, run.run_id, recorded=True)
