"""The MLflow store: a local SQLite database or a server."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import uuid4

from filelock import FileLock

from avsl.errors import AvslError
from avsl.files import project_root
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient


_SQLITE = "sqlite:///"


# Credentials of an address, with the text before them.
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]*@")


# Columns of MLflow's database with the addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

log = logging.getLogger(__name__)


class TrackingError(AvslError):
    """A store that cannot be reached or a run that cannot be used; the message is one sentence without passwords.

    Messages are stored, for example in the results of a search, and the store's address may contain a password.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_PASSWORD.sub(r"\1:***@", message))


class TrackingConfig(StrictConfig):
    """Settings of the MLflow store.

    Attributes:
        uri: an MLflow tracking URI; empty means the environment's MLFLOW_TRACKING_URI, else
            ``<root>/mlflow/mlflow.db``.
        artifact_root: a folder or ``s3://bucket/prefix`` for artifacts; empty means ``<root>/mlflow/artifacts``
            for a database, and a server's own root for a server.
        system_metrics: whether to record CPU, memory, disk, network and GPU use from the end of the first epoch on.
    """

    uri: str = ""
    artifact_root: str = ""
    system_metrics: bool = True


@dataclass(frozen=True)
class Store:
    """A reachable MLflow store.

    Attributes:
        client: MLflow's client of the store.
        artifact_root: root of new experiments' artifacts; None leaves it to the server.
        system_metrics: as in :class:`TrackingConfig`.
    """

    client: MlflowClient
    artifact_root: str | None
    system_metrics: bool

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return str(self.client.tracking_uri)


def open_store(config: TrackingConfig, root: Path, *, writes: bool = True, create: bool = True) -> Store:
    """Open the store; several processes can do so at the same time.

    A local store is an SQLite database below ``root``, and so are its artifacts. If the database names artifacts in the
    folder from which the checkout was copied or moved, a command that writes corrects the addresses and logs it; one
    that reads corrects them in a temporary copy. An experiment in a temporary copy of the project (``dvc exp run
    --temp`` or ``--queue``) uses the project's store.

    Args:
        config: settings of the store; a relative SQLite address is relative to the project's folder.
        root: folder of all outputs, to which a relative artifact root is relative.
        writes: whether the store will be changed; otherwise nothing in the project changes.
        create: whether to create a missing database, if ``writes``.

    Raises:
        TrackingError: the database cannot be opened, the server does not answer, or there is no database and
            none may be created.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    root = _in_project(root.resolve())
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{root}/mlflow/mlflow.db"
    artifacts = config.artifact_root
    if not artifacts and not uri.startswith(("http://", "https://")):
        artifacts = "mlflow/artifacts"
    if uri.startswith(_SQLITE):
        database = _in_project(project_root().resolve() / uri.removeprefix(_SQLITE))
        uri = f"{_SQLITE}{database}"
        if not (writes and create) and not database.is_file():
            raise TrackingError(
                f"there is no MLflow database {database}: `avsl train` makes one, `avsl models restore` rebuilds it "
                "from what `dvc pull` brings"
            )
        with one_sentence(f"the MLflow database {database} cannot be opened"):
            _create_database(database)
            if root in database.resolve().parents and not Path(artifacts).is_absolute():
                uri = f"{_SQLITE}{_bring_home(database, root, artifacts, writes=writes)}"
    elif uri.startswith(("http://", "https://")):
        _ask_server(uri)
    if artifacts and "://" not in artifacts:
        artifacts = (root / artifacts).as_uri()
    with one_sentence(f"the MLflow store {uri} cannot be used"):
        client = _client(uri)
        client.search_experiments(max_results=1)
    return Store(client, artifacts or None, config.system_metrics)


def _in_project(path: Path) -> Path:
    """``path``, or, if it lies in a temporary copy of the project, its place in the project itself.

    DVC runs an experiment with ``--temp`` or ``--queue`` in such a copy and deletes it afterwards.
    """
    copy = project_root().resolve()
    project, workspaces, _ = copy.as_posix().partition("/.dvc/tmp/exps/")
    return Path(project) / path.relative_to(copy) if workspaces and path.is_relative_to(copy) else path


def _bring_home(database: Path, root: Path, artifacts: str, *, writes: bool) -> Path:
    """Correct the addresses of the artifacts of a copied or moved project to its ``root``.

    Returns:
        The corrected database: this one, or, without ``writes``, a temporary copy that is deleted when Python exits.
    """
    home = (root / artifacts).as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        found = connection.execute("SELECT name, artifact_location FROM experiments WHERE name LIKE 'avsl-%'")
        elsewhere = {
            location.rpartition("/")[0]
            for name, location in found
            if location.startswith("file://") and location.endswith(Path("/", artifacts, name).as_uri()[7:])
        }
        # Those of a folder that the database still lies below were written with it as root: nothing has moved.
        unmoved = {(parent / artifacts).as_uri() for parent in database.resolve().parents}
        if not (moved := sorted(elsewhere - unmoved)):
            return database
        corrected = database
        if not writes:
            folder = mkdtemp(prefix="avsl-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            corrected = Path(folder, database.name)
            with closing(sqlite3.connect(corrected)) as copy:
                connection.backup(copy)
    with closing(sqlite3.connect(corrected, timeout=60)) as connection, connection:
        for former, (table, column) in product(moved, _ADDRESSES):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (home, len(former) + 1, len(former) + 1, f"{former}/"),
            )
    log.warning(
        "%s names artifacts in %s, from where this project was copied or moved: %s",
        database,
        " and ".join(moved),
        f"from now on it names them in {home}" if writes else f"`avsl models restore` names them in {home}",
    )
    return corrected


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    # Messages on migrations, model URLs and the monitor would break the progress bars.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The registry's address is set too, so that models do not go to a server in the environment.
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create_database(database: Path) -> None:
    """Create MLflow's tables atomically.

    Concurrent or interrupted migrations of MLflow would leave a broken database. They run under a lock in a temporary
    file, and only a complete database gets the final name.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    with FileLock(database.with_name(f"{database.name}.lock")):
        if database.exists():
            return
        # A new name for every attempt, because MLflow keeps using a deleted database that it has opened.
        attempt = f".{database.name}.{uuid4().hex}"
        draft, complete = (database.with_name(f"{attempt}.{part}") for part in ("new", "part"))
        try:
            _client(f"{_SQLITE}{draft}").search_experiments(max_results=1)
            # A copy is renamed, because MLflow keeps its connection to the draft.
            with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(complete)) as target:
                source.backup(target)
            complete.replace(database)
        finally:
            draft.unlink(missing_ok=True)
            complete.unlink(missing_ok=True)


def _ask_server(uri: str) -> None:
    """Send one request with a short timeout, because MLflow's client would retry for minutes."""
    try:
        # Without user name and password, which urllib would treat as part of the host.
        host = urlsplit(uri).netloc.rpartition("@")[2]
        with urlopen(urlsplit(uri)._replace(netloc=host).geturl().rstrip("/") + "/health", timeout=10):
            return
    except HTTPError:
        return  # the server answers; the first call shows whether it accepts the credentials
    except (OSError, ValueError, HTTPException) as error:
        raise TrackingError(f"the MLflow server {uri} does not answer: {error}") from None


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Convert errors of MLflow, its database or its storage to a TrackingError that starts with ``what``."""
    try:
        yield
    except Exception as error:
        # By package name, so that SQLAlchemy and boto3 need not be imported.
        package = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and package not in ("mlflow", "sqlalchemy", "sqlite3", "boto3", "botocore"):
            raise
        # The reason may be in the second line of SQLAlchemy's message.
        lines = [line for line in str(error).strip().splitlines() if "(raised as a result of" not in line]
        raise TrackingError(f"{what}: {lines[0] if lines else type(error).__name__}") from error
