"""Training runs in MLflow: the store, one run for each training, resumed by its id.

MLflow takes a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import uuid4

from filelock import FileLock

from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, RunInfo

# The tag of a run that was recorded again from its outputs: the id that it had in another store.
RESTORED_FROM = "restored_from"
_SQLITE = "sqlite:///"
# MLflow's own limits (mlflow.utils.validation).
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_PARAM_LENGTH = 6000
# Of what identifies a data set in a column.
_DIGEST_LENGTH = 8
# Of an address, with what stands before it.
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]*@")

log = logging.getLogger(__name__)


class TrackingError(ValueError):
    """A store that cannot be reached or a run that cannot be used; the message is one sentence without passwords.

    What it says may be kept, in a search's results for one, and the store's address may hold a password.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_PASSWORD.sub(r"\1:***@", message))


class TrackingConfig(StrictConfig):
    """Where runs are recorded.

    Attributes:
        uri: an MLflow tracking URI; empty means the environment's MLFLOW_TRACKING_URI, else
            ``<root>/mlflow/mlflow.db``.
        artifact_root: a folder or ``s3://bucket/prefix`` for artifacts; empty means ``<root>/mlflow/artifacts``
            for a database, and a server's own root for a server.
        system_metrics: whether CPU, memory, disk, network and GPU use are recorded while a run is open, from its first
            epoch's end on.
    """

    uri: str = ""
    artifact_root: str = ""
    system_metrics: bool = True


@dataclass(frozen=True)
class Store:
    """An MLflow store that answers.

    Attributes:
        client: MLflow's client for it.
        artifact_root: where new experiments put artifacts; None leaves it to the server.
        system_metrics: as in :class:`TrackingConfig`.
    """

    client: MlflowClient
    artifact_root: str | None
    system_metrics: bool

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return str(self.client.tracking_uri)


@dataclass(frozen=True)
class RunTags:
    """What every run is found by."""

    framework: str
    objective: str
    label_ratio: float
    seed: int
    data_hash: str
    split_hash: str
    git_commit: str
    dvc_stage: str


def open_store(config: TrackingConfig, root: Path) -> Store:
    """Open the store, creating a fresh SQLite one; any number of processes may do so at once.

    Args:
        config: where it is.
        root: the project's folder, which relative paths start from.

    Raises:
        TrackingError: the database cannot be opened or the server does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{root.resolve()}/mlflow/mlflow.db"
    if uri.startswith(_SQLITE):
        database = root.resolve() / uri.removeprefix(_SQLITE)
        uri = f"{_SQLITE}{database}"
        with one_sentence(f"the MLflow database {database} cannot be opened"):
            _create_database(database)
    elif uri.startswith(("http://", "https://")):
        _ask_server(uri)
    artifacts = config.artifact_root
    if not artifacts and not uri.startswith(("http://", "https://")):
        artifacts = "mlflow/artifacts"
    if artifacts and "://" not in artifacts:
        artifacts = (root.resolve() / artifacts).as_uri()
    with one_sentence(f"the MLflow store {uri} cannot be used"):
        client = _client(uri)
        client.search_experiments(max_results=1)
    return Store(client, artifacts or None, config.system_metrics)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    # Its notes on migrations, model URLs and the monitor's start would tear the progress bars.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The registry is named too: a server in the environment must not take the models of another store.
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create_database(database: Path) -> None:
    """Create MLflow's tables, all or nothing.

    Processes that run MLflow's migrations at the same time, or one killed in the middle, break a database for good:
    they run under a lock on a file of another name, and only a complete database gets the final name.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    with FileLock(database.with_name(f"{database.name}.lock")):
        if database.exists():
            return
        # A name of its own for every attempt: MLflow goes on using what it has once opened, though it be deleted.
        attempt = f".{database.name}.{uuid4().hex}"
        draft, complete = (database.with_name(f"{attempt}.{part}") for part in ("new", "part"))
        try:
            _client(f"{_SQLITE}{draft}").search_experiments(max_results=1)
            # MLflow keeps its connection to the draft, so a copy is renamed.
            with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(complete)) as target:
                source.backup(target)
            complete.replace(database)
        finally:
            draft.unlink(missing_ok=True)
            complete.unlink(missing_ok=True)


def _ask_server(uri: str) -> None:
    """Ask once with a short limit: MLflow's own client would go on trying for minutes."""
    try:
        # Without name and password, which urllib would take for the host's.
        host = urlsplit(uri).netloc.rpartition("@")[2]
        with urlopen(urlsplit(uri)._replace(netloc=host).geturl().rstrip("/") + "/health", timeout=10):
            return
    except HTTPError:
        return  # something answers; whether it lets us in shows at the first call
    except (OSError, ValueError, HTTPException) as error:
        raise TrackingError(f"the MLflow server {uri} does not answer: {error}") from None


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Turn what MLflow, its database or its storage raise into a TrackingError that starts with ``what``."""
    try:
        yield
    except Exception as error:
        # By package, so that SQLAlchemy and boto3 are not imported for the sake of their exceptions.
        package = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and package not in ("mlflow", "sqlalchemy", "sqlite3", "boto3", "botocore"):
            raise
        # SQLAlchemy's first line may say when it happened, and only the second what.
        lines = [line for line in str(error).strip().splitlines() if "(raised as a result of" not in line]
        raise TrackingError(f"{what}: {lines[0] if lines else type(error).__name__}") from error


def git_commit(root: Path) -> str:
    """The commit checked out in ``root``, with ``-dirty`` where files differ; "none" outside a repository."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.strip()


class Recorder(Protocol):
    """What a training tells its progress to; an open MLflow run is one."""

    @property
    def run_id(self) -> str:
        """Kept in checkpoints and with the trained model."""
        ...

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """An epoch's metrics."""
        ...

    def log_folder(self, path: Path) -> None:
        """What the training has left."""
        ...


class TrackedRun:
    """An open MLflow run; as a context it ends FINISHED, or FAILED or KILLED when an exception passes.

    Every epoch's metrics are recorded once: a resumed training that repeats an epoch adds no second point.
    """

    def __init__(self, store: Store, run_id: str, resumed: bool) -> None:
        self.run_id = run_id
        self._store = store
        self._client = store.client
        # Steps recorded before this process, by metric; looked up when a metric first comes.
        self._recorded: dict[str, set[int]] | None = {} if resumed else None
        self._monitor: Any = None
        self._watch = store.system_metrics
        self._resumed = resumed

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Record a configuration, nested keys joined by dots.

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

        From then on the system's are recorded too, where the store wants them.
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
            # Not earlier: MLflow's comparison draws the metric that was there first.
            self._watch = False
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor: Any = SystemMetricsMonitor  # MLflow leaves it untyped
            self._monitor = monitor(self.run_id, resume_logging=self._resumed, tracking_uri=self._store.uri)
            self._monitor.start()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, in the place of what they said before."""
        with self._writing("tags"):
            for key, value in tags.items():
                self._client.set_tag(self.run_id, key, value)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a file among the run's artifacts, in ``folder`` of them where given."""
        with self._writing(f"artifact {path}"):
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str | None = None) -> None:
        """Store what a folder holds among the run's artifacts, in ``folder`` of them where given."""
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
            # What has ended the block is what is to be told.
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
        tags: recorded with a new run, kept as they are in a resumed one.
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
            # By this name it is the first that MLflow's comparison draws of what runs of one label ratio differ in.
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


def _shown(tags: RunTags) -> dict[str, str]:
    """MLflow's own tags, which its list of runs shows without being asked: the source, and its version."""
    return {
        "mlflow.source.name": tags.dvc_stage,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": tags.git_commit.removesuffix("-dirty"),
    }


def _dataset(name: str, content_hash: str) -> DatasetInput:
    """What the column "Dataset" of MLflow's list of runs shows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"content_hash": content_hash})
    dataset = Dataset(name, content_hash[:_DIGEST_LENGTH], "avsl", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def find_run(store: Store, data: str, run_id: str) -> RunInfo | None:
    """The run of that id or, where the store has none, the one recorded again from its outputs; None without either.

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


def _experiment(store: Store, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = store.client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{store.artifact_root}/{name}" if store.artifact_root else None
    try:
        return str(store.client.create_experiment(name, location))
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
