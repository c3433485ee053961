"""Versions of registered models: added, found and read."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from avsl.registry.rules import ByHand, Candidate, Contest, Rank, Version
from avsl.tracking.store import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from pandas import DataFrame

CHAMPION = "champion"


PREVIOUS = "previous"


# The logged model, and in it the artifact that pyfunc_model.py asks for.
_WEIGHTS = "model"


# Tags of a version.
SUPERSEDED = "superseded_because"


BY_HAND = "by_hand"


BY_HAND_AFTER = "by_hand_after"


_ATTEMPTS = 20


_T = TypeVar("_T")


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


def find_version(store: Store, name: str, which: str) -> str:
    """The number of the version that ``which``, a number or an alias, means.

    Raises:
        TrackingError: there is none; says what there is.
    """
    with one_sentence(f"registered model '{name}' cannot be read in {store.uri}"):
        there = read_registered(store.client, name)
    if not there.entities:
        raise TrackingError(f"no model '{name}' is registered in {store.uri}")
    number = there.aliases.get(which, which)
    if number not in there.entities:
        known = ", ".join([*sorted(there.entities, key=int), *sorted(there.aliases)])
        raise TrackingError(f"'{name}' has no version '{which}': there are {known}")
    return number


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
        same = _numbers_with(client, name, model_hash=tags["model_hash"])
        version = same[0] if same else _add_version(client, name, model_dir, tags, code)
        client.set_registered_model_alias(name, alias, version)
    return name, version


def parse_address(uri: str) -> tuple[str, str, str]:
    """The name, alias and version that a registered model's address states; one of the latter two is empty.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises:
        TrackingError: the address is of neither form.
    """
    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if named is None:
        raise TrackingError(f"model '{uri}' is neither models:/NAME@ALIAS nor models:/NAME/VERSION")
    name, alias, version = named.groups(default="")
    return name, alias, version


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

    name, alias, version = parse_address(uri)
    with TemporaryDirectory() as folder:
        with one_sentence(f"model '{uri}' cannot be fetched from {store.uri}"):
            # Not by its models:/ address, which MLflow would look up in the process's global registry.
            version = version or store.client.get_model_version_by_alias(name, alias).version
            stored = store.client.get_model_version_download_uri(name, version)
            fetched = download_artifacts(f"{stored}/artifacts", dst_path=folder, tracking_uri=store.uri)
        # MLflow keeps the name that the exported folder had.
        (exported,) = Path(fetched).iterdir()
        yield exported, f"models:/{name}/{version}"


@dataclass(frozen=True)
class _Registered:
    """A registered model as it is now; empty where there is none.

    Attributes:
        aliases: version number by alias.
        entities: MLflow's versions by number.
        versions: those of them that avsl registered, in order, the first of each model.
        description: of the registered model.
    """

    aliases: Mapping[str, str]
    entities: Mapping[str, ModelVersion]
    versions: Sequence[Version]
    description: str


def read_registered(client: MlflowClient, name: str) -> _Registered:
    """Read a registered model with its versions and aliases."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return _Registered({}, {}, (), "")
        raise
    found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda entity: int(entity.version))
    ours = [version for entity in found if (version := _version(entity)) is not None]
    # A second one of the same is about to be taken back by its process, or was left by one that was killed there.
    firsts = {(version.run_id, version.model_hash): version for version in reversed(ours)}
    versions = sorted(firsts.values(), key=lambda version: version.number)
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    return _Registered(aliases, {str(entity.version): entity for entity in found}, versions, model.description or "")


def _version(entity: ModelVersion) -> Version | None:
    """What a version's tags tell; None where avsl did not register it."""
    tags = entity.tags
    by_hand = ByHand(tags[BY_HAND], int(tags[BY_HAND_AFTER])) if {BY_HAND, BY_HAND_AFTER} <= tags.keys() else None
    try:
        return Version(
            number=int(entity.version),
            run_id=tags["run_id"],
            model_hash=tags["model_hash"],
            score=float(tags["validation_score"]),
            metric=tags["metric"],
            split_hash=tags["split_hash"],
            # Versions from before there were ranks have the score of one seed, and no cost.
            rank=Rank(
                seeds=int(tags.get("seeds", "1")),
                level=float(tags.get("validation_level", tags["validation_score"])),
                saving=-float(tags.get("parameters", "inf")),
                score=float(tags["validation_score"]),
            ),
            by_hand=by_hand,
        )
    except (KeyError, ValueError):
        return None


def champion_of(there: _Registered, name: str) -> Version | None:
    """The version that holds the alias ``champion``."""
    number = there.aliases.get(CHAMPION)
    for version in there.versions:
        if str(version.number) == number:
            return version
    if number is not None:
        raise TrackingError(f"version {number} of '{name}' holds the alias {CHAMPION} but was not registered by avsl")
    return None


def retry_conflicts(step: Callable[[], _T]) -> _T:
    """Take a step, again where others were in its way in the database; every step here may be repeated."""
    from mlflow.exceptions import MlflowException

    for attempt in range(1, _ATTEMPTS):
        try:
            return step()
        except MlflowException as error:
            # MLflow looks before it inserts a tag or alias: two that do so at once break a constraint.
            crossed = any(kind in str(error) for kind in ("IntegrityError", "UniqueViolation"))
            if error.error_code != "TEMPORARILY_UNAVAILABLE" and not crossed:
                raise
            time.sleep(random.uniform(0, 0.1 * attempt))
    return step()


def update_ranks(client: MlflowClient, name: str, there: _Registered, contest: Contest) -> bool:
    """Give the versions of candidates the ranks that these have now; whether any changed."""
    changed = False
    for version in there.versions:
        rank = contest.ranks.get((version.run_id, version.model_hash))
        if rank is not None and replace(rank, score=version.score) != version.rank:
            for key, value in _rank_tags(rank).items():
                client.set_model_version_tag(name, str(version.number), key, value)
            changed = True
    return changed


def add_candidate(
    client: MlflowClient, name: str, candidate: Candidate, contest: Contest, card: str, code: ModelCode
) -> None:
    """Give a contest's winner its one version, with the tags and the card of its present scores."""
    tags = _version_tags(candidate) | _rank_tags(contest.ranks[candidate.model]) | {"evidence": contest.evidence}
    same = _numbers_with(client, name, run_id=candidate.run_id, model_hash=candidate.model_hash)
    if not same:
        own = _add_version(client, name, candidate.model_dir, tags, code, card)
        same = _numbers_with(client, name, run_id=candidate.run_id, model_hash=candidate.model_hash)
        if own != same[0]:
            # Another process was faster. Each takes back its own alone: a number that is free is given again.
            client.delete_model_version(name, own)
    first = same[0]
    entity = client.get_model_version(name, first)
    for key, value in tags.items():
        if entity.tags.get(key) != value:
            client.set_model_version_tag(name, first, key, value)
    if (entity.description or "") != card:
        client.update_model_version(name, first, card)


def withdraw_choice(client: MlflowClient, name: str, number: str) -> None:
    """Make a choice by hand one of the past."""
    retry_conflicts(lambda: client.delete_model_version_tag(name, number, BY_HAND_AFTER))


def _numbers_with(client: MlflowClient, name: str, **tags: str) -> list[str]:
    """The versions that have these tags, in order."""
    found = [
        entity for entity in client.search_model_versions(f"name = '{name}'") if tags.items() <= entity.tags.items()
    ]
    return sorted((str(entity.version) for entity in found), key=int)


def _add_version(
    client: MlflowClient, name: str, model_dir: Path, tags: Mapping[str, str], code: ModelCode, card: str = ""
) -> str:
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
        client.create_registered_model(name, {key: tags[key] for key in ("data", "label_ratio") if key in tags})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name,
        # Not "models:/<id>": a database store would look that up at the process-wide tracking URI.
        source=logged.artifact_location,
        run_id=run_id,
        tags=dict(tags),
        description=card,
        model_id=logged.model_id,
    ).version
    # What MLflow's pages link a logged model to its version by.
    link = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return str(version)


def _rank_tags(rank: Rank) -> dict[str, str]:
    return {
        "seeds": str(rank.seeds),
        "validation_level": repr(float(rank.level)),
        "parameters": f"{-rank.saving:.0f}",
    }


def _version_tags(candidate: Candidate) -> dict[str, str]:
    return {
        "data": candidate.data,
        "label_ratio": str(candidate.label_ratio),
        "framework": candidate.framework,
        "objective": candidate.objective,
        "seed": str(candidate.seed),
        "run_id": candidate.run_id,
        "model_hash": candidate.model_hash,
        "split_hash": candidate.split_hash,
        "metric": candidate.metric,
        # repr keeps every digit: an equal score must not look greater when read back.
        "validation_score": repr(float(candidate.score)),
        **{f"test.{key}": repr(float(value)) for key, value in candidate.test_metrics.items()},
    }
