"""Training runs in MLflow: the store, one run for each training, resumed by its id.

MLflow takes a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from avsl.tracking.store import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, RunInfo

# Tag of a run that was recorded again from its outputs: its id in the other store.
RESTORED_FROM = "restored_from"


# MLflow's own limits (mlflow.utils.validation).
_PARAMS_PER_BATCH = 100


_METRICS_PER_BATCH = 1000


_PARAM_LENGTH = 6000


# Length of a data set's identification in a column.
_DIGEST_LENGTH = 8


# The files of a project on which its results depend.
_DECISIVE = ("src", "conf", "pipelines", "params.yaml")


log = logging.getLogger(__name__)

# The view of an experiment's runs with these columns, which MLflow's page opens with `?viewStateShareKey=scores`.
_VIEW = "mlflow.sharedViewState.scores"
_COLUMNS = (
    *("params.`framework`", "tags.`objective`", "tags.`label_ratio`", "tags.`seed`"),
    *("metrics.`validation/ciou`", "metrics.`test/ciou`", "metrics.`test/auc`"),
)


@dataclass(frozen=True)
class RunTags:
    """The tags by which runs are found."""

    framework: str
    objective: str
    label_ratio: float
    seed: int
    data_hash: str
    split_hash: str
    git_commit: str
    dvc_stage: str


def git_commit(root: Path) -> str:
    """The commit checked out in ``root``, with ``-dirty`` if files that determine results differ; "none" without one.

    These are the code, the configuration files and params.yaml, but not dvc.lock, which DVC rewrites between stages.
    """
    git = ["git", "-C", str(root)]
    try:
        commit, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *_DECISIVE])
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{commit}-dirty" if changed else commit


class Recorder(Protocol):
    """Records the progress of a training, such as an open MLflow run."""

    @property
    def run_id(self) -> str:
        """The id in checkpoints and in the trained model's record."""
        ...

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record an epoch's metrics."""
        ...

    def log_folder(self, path: Path) -> None:
        """Record the results of the training."""
        ...


class Unrecorded:
    """Stands for an MLflow run where there is none: the curves and files of a training stay in its folder."""

    run_id = ""

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Do nothing; the training's history has the metrics."""

    def log_folder(self, path: Path) -> None:
        """Do nothing; the folder stays in place."""


class TrackedRun:
    """An open MLflow run; as a context it ends as FINISHED, or as FAILED or KILLED after an exception.

    Every epoch's metrics are recorded once: repeating an epoch in a resumed training adds no second point.
    """

    def __init__(self, store: Store, run_id: str, resumed: bool) -> None:
        self.run_id = run_id
        self._store = store
        self._client = store.client
        # Steps recorded before this process, by metric; read at a metric's first use.
        self._recorded: dict[str, set[int]] | None = {} if resumed else None
        self._monitor: Any = None
        self._watch = store.system_metrics
        self._resumed = resumed

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Record a configuration, with nested keys joined by dots.

        A value longer than MLflow's 6,000 characters is cut and its key named in the tag ``params_cut``.

        Raises:
            TrackingError: a key was recorded with another value before.
        """
        from mlflow.entities import Param

        values = dict(_flatten(config, ""))
        cut = sorted(key for key, value in values.items() if len(value) > _PARAM_LENGTH)
        params = [Param(key, value[:_PARAM_LENGTH]) for key, value in values.items()]
        with self._writing("parameters"):
            for start in range(0, len(params), _PARAMS_PER_BATCH):
                self._client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_BATCH])
            if cut:
                self._client.set_tag(self.run_id, "params_cut", ", ".join(cut))

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record metrics with step = epoch; a metric already recorded at that step keeps its value.

        From then on system metrics are recorded too, if the store's settings ask for them.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._writing("metrics"):
            points = [
                Metric(key, float(value), now, epoch) for key, value in metrics.items() if epoch not in self._steps(key)
            ]
            for start in range(0, len(points), _METRICS_PER_BATCH):
                self._client.log_batch(self.run_id, metrics=points[start : start + _METRICS_PER_BATCH])
        if self._watch:
            # Not earlier, because MLflow's comparison of runs shows the first recorded metric.
            self._watch = False
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor: Any = SystemMetricsMonitor  # MLflow leaves it untyped
            self._monitor = monitor(self.run_id, resume_logging=self._resumed, tracking_uri=self._store.uri)
            self._monitor.start()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags and replace their previous values."""
        with self._writing("tags"):
            for key, value in tags.items():
                self._client.set_tag(self.run_id, key, value)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a file among the run's artifacts, below ``folder`` if given."""
        with self._writing(f"artifact {path}"):
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str | None = None) -> None:
        """Store the files of a folder among the run's artifacts, below ``folder`` if given."""
        if not path.is_dir():
            raise TrackingError(f"artifact {path} of MLflow run {self.run_id} is not a folder")
        with self._writing(f"artifacts {path}"):
            self._client.log_artifacts(self.run_id, str(path), folder)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        with self._writing("status"):
            self._client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
            return
        try:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
        except TrackingError as unreached:
            # The block's exception is more informative than an error of the store.
            log.warning("%s", unreached)

    def _steps(self, key: str) -> set[int]:
        if self._recorded is None:
            return set()
        if key not in self._recorded:
            self._recorded[key] = {point.step for point in self._client.get_metric_history(self.run_id, key)}
        return self._recorded[key]

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        with one_sentence(f"{what} of MLflow run {self.run_id} cannot be written to {self._store.uri}"):
            yield


def start_or_resume_run(
    store: Store,
    data: str,
    run_name: str,
    tags: RunTags,
    params: Mapping[str, Any],
    run_id: str | None = None,
) -> TrackedRun:
    """Open a run in the data set's experiment ``avsl-<data>``.

    Args:
        store: from :func:`open_store`.
        data: the data set's name.
        run_name: shown in lists of runs.
        tags: tags of a new run; those of a resumed run are kept.
        params: the whole configuration, nested.
        run_id: a run to continue, such as one that a killed process left RUNNING.

    Raises:
        TrackingError: the store fails, or ``run_id`` is unknown, deleted, or of another experiment.
    """
    experiment = f"avsl-{data}"
    client = store.client
    with one_sentence(f"no run can be opened in experiment '{experiment}' of {store.uri}"):
        experiment_id = _experiment(store, experiment)
        if run_id is None:
            labels = {key: str(value) for key, value in asdict(tags).items()} | _shown(tags)
            run = TrackedRun(store, client.create_run(experiment_id, None, labels, run_name).info.run_id, False)
            client.log_inputs(run.run_id, [_dataset(data, tags.data_hash)])
            # Under this name it is the first parameter in MLflow's comparison in which runs of a label ratio differ.
            run.log_params({"framework": tags.framework})
            run.log_params(params)
            return run
    with one_sentence(f"MLflow run '{run_id}' is not in {store.uri}"):
        info = client.get_run(run_id).info
    if info.lifecycle_stage != "active":
        raise TrackingError(f"MLflow run '{run_id}' in {store.uri} has been deleted")
    if info.experiment_id != experiment_id:
        raise TrackingError(f"MLflow run '{run_id}' in {store.uri} is not in experiment '{experiment}'")
    with one_sentence(f"MLflow run '{run_id}' in {store.uri} cannot be reopened"):
        client.update_run(run_id, status="RUNNING")
    run = TrackedRun(store, run_id, resumed=True)
    run.log_params(params)
    return run


def start_summary_run(store: Store, data: str, run_name: str, tags: Mapping[str, str]) -> TrackedRun:
    """Open a run in the data set's experiment that is no training, but says something about several.

    Args:
        store: from :func:`open_store`.
        data: the data set's name.
        run_name: shown in lists of runs.
        tags: of the run.

    Raises:
        TrackingError: the store fails.
    """
    with one_sentence(f"no run can be opened in experiment 'avsl-{data}' of {store.uri}"):
        created = store.client.create_run(_experiment(store, f"avsl-{data}"), None, dict(tags), run_name)
    return TrackedRun(store, created.info.run_id, resumed=False)


def _shown(tags: RunTags) -> dict[str, str]:
    """Tags that MLflow's list of runs shows by default: the source and its version."""
    return {
        "mlflow.source.name": tags.dvc_stage,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": tags.git_commit.removesuffix("-dirty"),
    }


def _dataset(name: str, content_hash: str) -> DatasetInput:
    """The entry of the column "Dataset" in MLflow's list of runs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"content_hash": content_hash})
    dataset = Dataset(name, content_hash[:_DIGEST_LENGTH], "avsl", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def find_run(store: Store, data: str, run_id: str) -> RunInfo | None:
    """The run of this id or, if the store has none, the run that was recorded again from its outputs; else None.

    Raises:
        TrackingError: the store fails.
    """
    from mlflow.exceptions import MlflowException

    client = store.client
    with one_sentence(f"MLflow run '{run_id}' cannot be looked for in {store.uri}"):
        try:
            return client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        experiment = client.get_experiment_by_name(f"avsl-{data}")
        if experiment is None:
            return None
        copies = client.search_runs([experiment.experiment_id], f"tags.{RESTORED_FROM} = '{run_id}'", max_results=1)
        return copies[0].info if copies else None


def id_in_store(store: Store, data: str, run_id: str, trained: Path) -> str:
    """The id of a training's run in this store, which is another than ``run_id`` if the run was recorded again.

    Args:
        store: the store.
        data: the data set's name.
        run_id: the id that the training has noted.
        trained: the training's folder, for the error.

    Raises:
        TrackingError: the store has no such run, or fails.
    """
    found = find_run(store, data, run_id)
    if found is None:
        raise TrackingError(f"{store.uri} has no run '{run_id}' of {trained}: `avsl models restore` records it again")
    return str(found.run_id)


def _experiment(store: Store, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = store.client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{store.artifact_root}/{name}" if store.artifact_root else None
    try:
        return str(store.client.create_experiment(name, location, {_VIEW: json.dumps({"selectedColumns": _COLUMNS})}))
    except MlflowException as error:
        # Another process may have created it in between.
        found = store.client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return str(found.experiment_id)


def _flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple | Mapping):
            yield f"{prefix}{key}", json.dumps(value)
        else:
            yield f"{prefix}{key}", str(value)
