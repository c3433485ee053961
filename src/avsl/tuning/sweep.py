"""Searches the best settings at each label ratio and registers the winner."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from avsl.build import steps_per_epoch
from avsl.cluster import Interrupt, cluster
from avsl.config.compose import as_override, compose
from avsl.config.models import Config, differing_values
from avsl.config.plugins import loaded_plugins
from avsl.console import print_table
from avsl.data.splits import Split
from avsl.files import write_json
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.stages.evaluate import evaluate
from avsl.stages.prepare import load_data, prepare, split
from avsl.stages.register import decide, read_candidates
from avsl.stages.restore import log_training
from avsl.stages.start import start
from avsl.storage import StorageError, upload
from avsl.tracking.runs import TrackedRun, git_commit
from avsl.tracking.store import TrackingError
from avsl.training.loop import check_warm_ups
from avsl.tuning.apply import apply
from avsl.tuning.config import Request, read_requests
from avsl.tuning.confirm import Confirmed, confirm, print_confirmed
from avsl.tuning.execution import WORKER, execute, first_rung, make_scheduler
from avsl.tuning.pictures import draw
from avsl.tuning.records import Origin, Records
from avsl.tuning.study import Study, SweepError, Trial, alone, is_begun

log = logging.getLogger(__name__)

# Seconds for which the end of a search waits for an MLflow that does not answer.
_PATIENCE_S = 20.0
_SHOWN = 10
# The settings that must be equal when a search is resumed.
_DECISIVE = {"name", "frameworks", "seed", "sampler", "startup", "scheduler"}


def sweep(overrides: Sequence[str] = ()) -> None:
    """Search for the best settings at each requested label ratio.

    ``tune.resume`` resumes the searches that have begun and starts those of the other label ratios.

    Raises:
        ConfigError: a key, a value or a space is wrong.
        ClusterError: the Ray cluster does not answer, or no node of it can hold a trial.
        SweepError: a search cannot be started or resumed, there is none to resume, or, raised after the searches of the
            other label ratios, no trial of a search was completed.
        StorageError: ``tune.results`` cannot be written; raised before any trial.
        SystemExit: the sweep was interrupted; its state is kept.
    """
    requests = read_requests(overrides)
    tune = requests[0].tune
    # Invalid settings are refused before anything is computed.
    searches = [_Search(request, {f: request.defaults(f) for f in tune.frameworks}) for request in requests]
    begun = [is_begun(search.folder, tune.resume) for search in searches]
    if tune.resume and not any(begun):
        raise SweepError(f"{searches[0].folder} holds no search to resume: leave tune.resume out")
    interrupt = Interrupt("ending the sweep; tune.resume=true continues it, and a second signal stops it at once")
    resources = {"CPU": tune.resources.cpu, "GPU": tune.resources.gpu}
    what = f"a trial of tune.resources.cpu = {tune.resources.cpu:g} and tune.resources.gpu = {tune.resources.gpu:g}"
    cluster_of_trials = cluster(tune.address, resources, what, log_to_driver=False, runtime_env={"env_vars": WORKER})
    failures = []
    with interrupt.handle(), cluster_of_trials, interrupt.handle():
        for search in searches:
            if not interrupt.requested and (reason := search.run(interrupt)):
                failures.append(f"label ratio {search.layout.ratio}: {reason}")
    if interrupt.requested:
        raise SystemExit(interrupt.code)
    if failures:
        raise SweepError("; ".join(failures))


class _Search:
    """The search at one label ratio, from its data to its winner.

    A trial is a training like that of `avsl train` in a separate folder. The winner is evaluated and offered to the
    registry without a second training.

    Args:
        request: the search.
        defaults: the default values of each framework.
    """

    def __init__(self, request: Request, defaults: Mapping[str, Mapping[str, Any]]) -> None:
        self.request = request
        self.defaults = defaults
        tune = request.tune
        self.config = request.config(tune.frameworks[0], {})
        self.storage = Path(tune.storage or self.config.root / "sweep" / tune.name).resolve()
        self.layout = self._layout(self.config, self.storage)
        self.folder = self.layout.base / "search" / self.layout.ratio
        # A sweep with data settings other than the DAG's has separate data.
        self.own_data = self.config.data.name in tune.settings.get("data", {})

    @staticmethod
    def _layout(config: Config, root: Path) -> Layout:
        return Layout.of(config.model_copy(update={"root": root}))

    def run(self, interrupt: Interrupt) -> str:
        """Start or resume the search and log the result; returns why it has no winner, or an empty string."""
        with alone(self.folder):
            return self._run(self._prepare(), interrupt)

    def _run(self, data_split: Split, interrupt: Interrupt) -> str:
        frameworks = self.request.tune.frameworks
        plain = {f: self.request.config(f, {}) for f in frameworks}
        per_epoch = steps_per_epoch(self.config, data_split)
        for config in plain.values():
            check_warm_ups(config, per_epoch * config.trainer.epochs)
        space = {f: {k: d.model_dump() for k, d in self.request.space(f).items()} for f in frameworks}
        decisive = {"root", "evaluate", "tracking"}
        stated = {
            "configuration": {f: config.model_dump(mode="json", exclude=decisive) for f, config in plain.items()},
            "space": space,
            "split": data_split.content_hash,
            "tune": self.request.tune.model_dump(mode="json", include=_DECISIVE),
        }
        tune = self.request.tune
        study = Study(self.folder, self.request, _as_json(stated), self.defaults)
        if tune.results:
            self._publish(None)
        epochs = self.config.trainer.epochs
        first = first_rung(self.request, plain, per_epoch)
        stops = tune.scheduler is not None and first < epochs
        log.info(
            "label ratio %s: %d trials of %s to go, in %s; %s",
            self.layout.ratio,
            study.remaining(),
            " and ".join(frameworks),
            self.folder,
            f"poor ones are stopped after epoch {first} of {epochs} or later" if stops else "none is stopped early",
        )
        if reason := self._why_not_to_offer(data_split):
            log.info("the winner will not be offered to the registry: %s", reason)
        commit = git_commit(self.request.project)
        origin = Origin(self.config, data_split.data_hash, data_split.content_hash, commit, self.layout.ratio)
        shown = {"tune": stated["tune"], "space": space}
        records = Records(study, origin, self._configured, shown)
        try:
            scheduler = make_scheduler(tune.scheduler, first, epochs, study.trials())
            execute(study, scheduler, lambda trial: self._shipped(trial, commit), records.changed, interrupt)
        finally:
            unwritten = records.close(_PATIENCE_S)
        confirmed = confirm(
            self.request,
            self.config,
            self.storage,
            study.trials(),
            lambda trial: self._shipped(trial, commit),
            interrupt,
        )
        return self._finish(study, records, unwritten, confirmed, interrupt.requested)

    def _prepare(self) -> Split:
        """Prepare the data of all trials; separate data lie in the sweep's storage."""
        base = self.request.base(self.request.tune.frameworks[0])
        root = as_override("root", str(self.storage))
        if self.own_data:
            prepare([*base, root])
        else:
            prepare(base)
            data = Layout.of(self.config).prepared.resolve()
            if self.layout.prepared.resolve() != data:  # another sweep in this storage may be reading through the link
                self.layout.prepared.parent.mkdir(parents=True, exist_ok=True)
                self.layout.prepared.unlink(missing_ok=True)
                self.layout.prepared.symlink_to(data)
        split([*base, root])
        start([*base, root])
        return load_data(self.layout)[1]

    def _configured(self, trial: Trial) -> Config:
        """Return the configuration of a trial as it was proposed, with a separate root."""
        return Config.read({**trial.config, "root": self.folder / "trials" / str(trial.number)}, "")

    def _shipped(self, trial: Trial, commit: str) -> dict[str, Any]:
        return {
            "number": trial.number,
            "default": trial.default,
            "config": self._configured(trial).model_dump(mode="json"),
            "prepared": str(self.layout.prepared.resolve()),
            "split": str(self.layout.split),
            "plugins": loaded_plugins(),
            "start": str(self.layout.start_of_seed),
            "origin": {"command": self._command(trial), "git_commit": commit},
        }

    def _command(self, trial: Trial) -> str:
        # Separate data need a separate root; otherwise they would overwrite the DAG's.
        own = [as_override("root", str(self.storage))] if self.own_data else []
        return shlex.join(["avsl", "run", *self.request.searched(trial.framework, trial.values), *own])

    def _finish(
        self,
        study: Study,
        records: Records,
        unwritten: Sequence[int],
        confirmed: Sequence[Confirmed],
        interrupted: bool,
    ) -> str:
        """Log the result; offer and apply the winner unless the search was interrupted."""
        trials = study.trials()
        best = study.trial(confirmed[0].trial) if confirmed else study.best()
        for trial in trials:
            if trial.state in ("stopped", "failed") and trial.config:  # its checkpoint is not needed
                shutil.rmtree(Layout.of(self._configured(trial)).state, ignore_errors=True)
        _print(trials, f"label ratio {self.layout.ratio}: best of {len(trials)} trials, by validation CIoU@0.5")
        print_confirmed(confirmed, f"label ratio {self.layout.ratio}: the best trials over seeds")
        result: dict[str, Any] = {
            "label_ratio": self.request.label_ratio,
            "trials": [
                asdict(replace(trial, config={}, epochs={})) | {"epochs": len(trial.epochs)} for trial in trials
            ],
            "unwritten_in_mlflow": list(unwritten),
            "confirmed": [trial.as_json() for trial in confirmed],
        }
        if best is not None:
            result |= {"best": best.number, "reproduce": self._command(best)}
            log.info("reproduce it with\n  %s", result["reproduce"])
        if unwritten:
            log.warning(
                "MLflow lacks trials %s: tune.resume=true writes them when it is back", ", ".join(map(str, unwritten))
            )
        if best is not None and not interrupted:
            seeds = list(confirmed[0].scores) if confirmed else [self.config.seed]
            result["registry"] = self._offer(study.trial(best.number), seeds, records)
            log.info("registry: %s", result["registry"])
            if self.request.tune.apply:
                self._apply(best)
        write_json(self.folder / "result.json", result)
        self._record(study, records, confirmed, interrupted)
        if self.request.tune.results:
            try:
                self._publish(best)
            except StorageError as error:
                log.warning("%s; the results are in %s", error, self.folder)
        if interrupted or any(trial.state == "interrupted" for trial in trials):
            log.info("tune.resume=true resumes the interrupted trials")
        if best is not None or interrupted:
            return ""
        reasons = "; ".join(sorted({trial.reason for trial in trials if trial.reason})) or "the time budget was used up"
        return f"none of {len(trials)} trials was completed: {reasons}"

    def _offer(self, best: Trial, seeds: Sequence[int], records: Records) -> str:
        """Evaluate the winner's seeds and offer them to the registry by the rule of `register`; returns the outcome."""
        config = self._configured(best)
        layout = Layout.of(config)
        if reason := self._why_not_to_offer(Split.load(layout.split)):
            return f"not offered: {reason}"
        try:
            store, _ = records.parent()
            if best.run_id is None:
                return "not offered: MLflow was out of reach; tune.resume=true offers it when it is back"
            # The driver opened the run, so the training could not record it.
            RunRecord.load(layout.train).model_copy(update={"run_id": best.run_id}).save(layout.train)
            asked = [
                *self.request.searched(best.framework, best.values),
                as_override("root", str(config.root)),
                as_override("tracking.uri", store.uri),
            ]
            for seed in seeds:
                trained = layout.cell / str(seed)
                how = RunRecord.load(trained)
                if not how.run_id:
                    with records.open_seed(best, how) as run:
                        log_training(run, how, trained)
                    how.model_copy(update={"run_id": run.run_id}).save(trained)
                evaluate([*asked, as_override("seed", seed)])
            decision = decide(config, store, read_candidates(config))
        except TrackingError as error:
            return f"not offered: {error}; tune.resume=true offers it again"
        return f"{decision.model} version {decision.version} {decision.action}: {decision.reason}"

    def _why_not_to_offer(self, data_split: Split) -> str:
        """Return why a winner cannot be registered; empty if it can. All models of a label ratio must share a split."""
        current = Layout.of(self.config).split
        if current.is_file() and Split.load(current).content_hash != data_split.content_hash:
            return f"its split is not the current one, {current}"
        return ""

    def _apply(self, best: Trial) -> None:
        path = apply(self.request.project, best.framework, self.request.label_ratio, best.values)
        log.info("written to %s: the next `dvc repro` trains %s with it", path, best.framework)
        overrides = [f"framework={best.framework}", f"split.label_ratio={self.request.label_ratio}"]
        of_dag = compose(overrides, self.request.project).model_dump(mode="json")
        of_sweep = self.request.config(best.framework, best.values).model_dump(mode="json")
        if differing := sorted(differing_values(of_dag, of_sweep)):
            log.warning("but the sweep used other values of %s", ", ".join(differing))

    def _record(self, study: Study, records: Records, confirmed: Sequence[Confirmed], interrupted: bool) -> None:
        """Log plots and results to the search's MLflow run."""
        pictures = draw(study, self.request.tune.frameworks, self.folder / "plots")
        try:
            store, parent = records.parent()
            for trial in confirmed:
                run_id = study.trial(trial.trial).run_id
                if run_id is not None:
                    TrackedRun(store, run_id, resumed=False).log_epoch(trial.metrics, 0)
            for path in (*pictures, self.folder / "result.json"):
                parent.log_file(path)
            parent.finish("KILLED" if interrupted else "FINISHED")
        except TrackingError as error:
            log.warning("%s; plots and results are in %s", error, self.folder)

    def _publish(self, best: Trial | None) -> None:
        """Copy the study, its result and plots, and the winner's files to ``tune.results``."""
        found = [self.folder / "study.db", self.folder / "result.json", *(self.folder / "plots").glob("*")]
        if best is not None:
            layout = Layout.of(self._configured(best))
            found += [*layout.cell.rglob("*"), *layout.evaluated_cell.rglob("*")]
        with TemporaryDirectory() as staged:
            for path in found:
                if path.is_file():
                    link = Path(staged) / path.relative_to(self.storage)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path)
            upload(Path(staged), self.request.tune.results)


def _as_json(value: Any) -> Any:
    """Convert tuples to lists, as they are read back from JSON."""
    return json.loads(json.dumps(value))


def _print(trials: Sequence[Trial], title: str) -> None:
    """Print the best trials, finished ones first."""
    order = {"complete": 0, "stopped": 1, "interrupted": 2, "failed": 3}
    ranked = sorted(trials, key=lambda trial: (order[trial.state], -(trial.score or 0.0), trial.number))
    rows = [
        {
            "trial": str(trial.number),
            "framework": f"{trial.framework}{' (defaults)' if trial.default else ''}",
            "CIoU": "" if trial.score is None else f"{100 * trial.score:.1f}",
            "epochs": str(len(trial.epochs)),
            "state": trial.reason or trial.state,
            "values": "  ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.values.items()),
        }
        for trial in ranked[:_SHOWN]
    ]
    print_table(rows, title)
