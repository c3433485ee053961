"""The registry of best models: which run serves a data set at a label ratio, and why."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from avsl.tracking.runs import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from pandas import DataFrame

CHAMPION = "champion"
PREVIOUS = "previous"
# The exported model's folder inside the registered one.
_WEIGHTS = "model"


@dataclass(frozen=True)
class Candidate:
    """A trained model that may become champion.

    Attributes:
        run_id: its MLflow run.
        framework: its name.
        score: on validation, greater is better.
        metric: the name of what the score is.
        split_hash: of the split it was trained and scored on.
        data: the data set's name.
        label_ratio: in (0, 1].
        model_dir: the exported model's folder.
        model_hash: of that folder, :func:`hash_model`.
        test_metrics: evidence attached to the version; never decides.
    """

    run_id: str
    framework: str
    score: float
    metric: str
    split_hash: str
    data: str
    label_ratio: float
    model_dir: Path
    model_hash: str
    test_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """The version that holds the alias, as its tags tell it."""

    version: str
    run_id: str
    model_hash: str
    score: float
    metric: str
    split_hash: str


@dataclass(frozen=True)
class Choice:
    """What the rules say.

    Attributes:
        winner: the candidate that takes the alias; None where the champion stays.
        reason: one sentence.
        skipped: why a candidate did not compete, by run id.
    """

    winner: Candidate | None
    reason: str
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Decision:
    """What became of the registered model.

    Attributes:
        model: its name.
        action: "promoted" where the alias moved, "kept" where it did not.
        version: the champion's version after it.
        previous: the version with the alias ``previous`` after it, if any.
        reason: one sentence.
        skipped: why a candidate did not compete, by run id.
    """

    model: str
    action: Literal["promoted", "kept"]
    version: str
    previous: str | None
    reason: str
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class ModelCode:
    """The code a registered model carries.

    Attributes:
        script: run by MLflow to make the model ("models from code").
        package: folder of the package the script imports.
        signature: of the model's input.
        input_example: rows for a user to look at and try.
        requirements: pinned, ``name==version``.
    """

    script: Path
    package: Path
    signature: ModelSignature
    input_example: DataFrame
    requirements: Sequence[str]


def model_name(data: str, label_ratio: float) -> str:
    """The registered model of a data set and label ratio: ``avsl-synthetic-ratio-0.03``, ``...-1.0``.

    Raises:
        ValueError: the ratio is not in (0, 1].
    """
    if not 0 < label_ratio <= 1:
        raise ValueError(f"label ratio {label_ratio} is not in (0, 1]")
    return f"avsl-{data}-ratio-{float(label_ratio)}"


def hash_model(folder: Path) -> str:
    """SHA-256 over the exported model's files."""
    digest = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def choose(candidates: Sequence[Candidate], champion: Champion | None, split_hash: str, metric: str) -> Choice:
    """Apply the rules of promotion.

    The best finite validation score wins among candidates of this split and metric, the first of equals. A champion
    of the same split and metric gives way to a strictly greater score alone; one of another is not comparable and
    gives way to any.
    """
    skipped = {}
    for candidate in candidates:
        if candidate.split_hash != split_hash:
            skipped[candidate.run_id] = f"split {candidate.split_hash} is not the current {split_hash}"
        elif candidate.metric != metric:
            skipped[candidate.run_id] = f"metric {candidate.metric} is not {metric}"
        elif not math.isfinite(candidate.score):
            skipped[candidate.run_id] = f"validation {metric} is {candidate.score}"
    competing = [candidate for candidate in candidates if candidate.run_id not in skipped]
    if not competing:
        return Choice(None, f"no candidate has a validation {metric} on split {split_hash}", skipped)
    best = max(competing, key=lambda candidate: candidate.score)
    if champion is None:
        return Choice(best, f"first champion, validation {metric} {best.score:.6g}", skipped)
    if champion.split_hash != split_hash:
        reason = f"split {split_hash} takes the place of {champion.split_hash}"
        return Choice(best, reason, skipped)
    if champion.metric != metric:
        return Choice(best, f"metric {metric} takes the place of {champion.metric}", skipped)
    if best.score > champion.score:
        return Choice(best, f"validation {metric} {best.score:.6g} is above {champion.score:.6g}", skipped)
    reason = f"best candidate's validation {metric} {best.score:.6g} is not above the champion's {champion.score:.6g}"
    return Choice(None, reason, skipped)


def promote(
    store: Store,
    candidates: Sequence[Candidate],
    data: str,
    label_ratio: float,
    split_hash: str,
    metric: str,
    code: ModelCode,
) -> Decision:
    """Give the alias ``champion`` of a data set and label ratio to whom it belongs by :func:`choose`.

    Only a winner gets a version, one for each run and model hash; a repeated call, or one after a kill, adds none.
    The former champion becomes ``previous``.

    Args:
        store: where runs and models are.
        candidates: trained on this data set and label ratio.
        data: the data set's name.
        label_ratio: in (0, 1].
        split_hash: of the current split; candidates of others do not compete.
        metric: the validation metric's name; candidates scored by others do not compete.
        code: carried by a new version.

    Raises:
        TrackingError: a candidate is of another data set or ratio, there is neither a candidate that may compete
            nor a champion, or the store fails.
    """
    name = model_name(data, label_ratio)
    for candidate in candidates:
        if (candidate.data, candidate.label_ratio) != (data, label_ratio):
            raise TrackingError(
                f"run {candidate.run_id} was trained on {candidate.data} at label ratio {candidate.label_ratio},"
                f" so it cannot become {name}"
            )
    client = store.client
    with one_sentence(f"registered model '{name}' cannot be updated in {store.uri}"):
        aliases = _aliases(client, name)
        old = aliases.get(CHAMPION)
        champion = _champion(client, name, old) if old else None
        choice = choose(candidates, champion, split_hash, metric)
        if choice.winner is None:
            if old is None:
                reasons = "".join(f"; run {run_id}: {why}" for run_id, why in choice.skipped.items())
                raise TrackingError(f"'{name}' gets no champion: {choice.reason}{reasons}")
            return Decision(name, "kept", old, aliases.get(PREVIOUS), choice.reason, choice.skipped)
        new = _version_with(client, name, run_id=choice.winner.run_id, model_hash=choice.winner.model_hash)
        if new is None:
            new = _add_version(client, name, choice.winner.model_dir, _version_tags(choice.winner), code)
        if old and old != new:
            # First the old one: a call killed in between is completed by the next.
            client.set_registered_model_alias(name, PREVIOUS, old)
            client.set_model_version_tag(name, old, "superseded_because", choice.reason)
        _set_tags(client, name, new, _version_tags(choice.winner))
        client.delete_model_version_tag(name, new, "superseded_because")
        client.set_registered_model_alias(name, CHAMPION, new)
        previous = _aliases(client, name).get(PREVIOUS)
    return Decision(name, "promoted", new, previous, choice.reason, choice.skipped)


def register_imported(
    store: Store, data: str, alias: str, model_dir: Path, tags: Mapping[str, str], code: ModelCode
) -> tuple[str, str]:
    """Keep a model that was trained elsewhere as a version of ``avsl-<data>-imported``.

    It is of no label ratio, so it never meets the candidates of :func:`promote` and is champion of nothing. The same
    model, by its hash, has one version, however often it comes.

    Args:
        store: where runs and models are.
        data: the data set that it was scored on.
        alias: moves to this version.
        model_dir: the exported model's folder.
        tags: of the version, with ``run_id`` and ``model_hash`` among them.
        code: carried by a new version.

    Returns:
        The registered model's name and the version.

    Raises:
        TrackingError: the store fails.
    """
    name = f"avsl-{data}-imported"
    client = store.client
    with one_sentence(f"registered model '{name}' cannot be updated in {store.uri}"):
        version = _version_with(client, name, model_hash=tags["model_hash"])
        if version is None:
            version = _add_version(client, name, model_dir, tags, code)
        client.set_registered_model_alias(name, alias, version)
    return name, version


@contextmanager
def model_folder(store: Store, uri: str) -> Iterator[tuple[Path, str]]:
    """A registered model in its exported form, for as long as the context lasts.

    Args:
        store: where it is registered.
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Yields:
        The folder, and the address with the version that was found.

    Raises:
        TrackingError: the address is of neither form, or there is no such model.
    """
    from mlflow.artifacts import download_artifacts

    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if named is None:
        raise TrackingError(f"model '{uri}' is neither models:/NAME@ALIAS nor models:/NAME/VERSION")
    name, alias, version = named.groups()
    with TemporaryDirectory() as folder:
        with one_sentence(f"model '{uri}' cannot be fetched from {store.uri}"):
            # Not by its models:/ address, which MLflow would look up in the process's global registry.
            version = version or store.client.get_model_version_by_alias(name, alias).version
            stored = store.client.get_model_version_download_uri(name, version)
            fetched = download_artifacts(f"{stored}/artifacts/{_WEIGHTS}", dst_path=folder, tracking_uri=store.uri)
        yield Path(fetched), f"models:/{name}/{version}"


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Version by alias; empty for a model that is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _champion(client: MlflowClient, name: str, version: str) -> Champion:
    tags = client.get_model_version(name, version).tags
    try:
        return Champion(
            version=version,
            run_id=tags["run_id"],
            model_hash=tags["model_hash"],
            score=float(tags["validation_score"]),
            metric=tags["metric"],
            split_hash=tags["split_hash"],
        )
    except (KeyError, ValueError) as error:
        raise TrackingError(
            f"version {version} of '{name}' holds the alias {CHAMPION} but was not registered by avsl: {error}"
        ) from None


def _version_with(client: MlflowClient, name: str, **tags: str) -> str | None:
    """A version that has these tags, if there is one."""
    versions: Sequence[ModelVersion] = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if tags.items() <= version.tags.items():
            return str(version.version)
    return None


def _add_version(client: MlflowClient, name: str, model_dir: Path, tags: Mapping[str, str], code: ModelCode) -> str:
    """Register the exported model in ``model_dir`` as another version; the tag ``run_id`` is its run."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    # `mlflow.pyfunc.log_model` would take the process-wide tracking URI and reopen the run.
    run_id = tags["run_id"]
    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, _WEIGHTS, run_id)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "saved"
        save_model(
            str(target),
            python_model=str(code.script),
            code_paths=[str(code.package)],
            artifacts={_WEIGHTS: str(model_dir)},
            signature=code.signature,
            input_example=code.input_example,
            pip_requirements=list(code.requirements),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
        )
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name,
        # Not "models:/<id>": a database store would look that up at the process-wide tracking URI.
        source=logged.artifact_location,
        run_id=run_id,
        tags=dict(tags),
        model_id=logged.model_id,
    ).version
    # What MLflow's pages link a logged model to its version by.
    link = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return str(version)


def _version_tags(candidate: Candidate) -> dict[str, str]:
    return {
        "data": candidate.data,
        "label_ratio": str(candidate.label_ratio),
        "framework": candidate.framework,
        "run_id": candidate.run_id,
        "model_hash": candidate.model_hash,
        "split_hash": candidate.split_hash,
        "metric": candidate.metric,
        # repr keeps every digit: an equal score must not look greater when read back.
        "validation_score": repr(float(candidate.score)),
        **{f"test.{key}": repr(float(value)) for key, value in candidate.test_metrics.items()},
    }


def _set_tags(client: MlflowClient, name: str, version: str, tags: Mapping[str, Any]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
