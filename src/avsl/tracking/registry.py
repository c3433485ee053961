"""The registry of best models: which run serves a data set at a label ratio, and why."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeVar

from avsl.tracking.runs import Store, TrackingError, one_sentence

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
_SUPERSEDED = "superseded_because"
_BY_HAND = "by_hand"
_BY_HAND_AFTER = "by_hand_after"
# Far more than processes that only add versions can make of each other's work.
_PASSES = 100
_ATTEMPTS = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class Candidate:
    """A trained model that may become champion.

    Attributes:
        run_id: its MLflow run.
        framework: that trained it.
        objective: below that framework.
        score: on validation, greater is better.
        metric: the name of what the score is.
        split_hash: of the split it was trained and scored on.
        data: the data set's name.
        label_ratio: in (0, 1].
        model_dir: the exported model's folder.
        model_hash: of that folder, :func:`hash_model`.
        test_metrics: evidence attached to the version; never decides.
        card: Markdown shown on the version's page.
    """

    run_id: str
    framework: str
    objective: str
    score: float
    metric: str
    split_hash: str
    data: str
    label_ratio: float
    model_dir: Path
    model_hash: str
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    card: str = ""


@dataclass(frozen=True)
class ByHand:
    """A person's choice of champion.

    Attributes:
        reason: why, as the person said it.
        after: the highest version number at that time: what the person could choose among.
    """

    reason: str
    after: int


@dataclass(frozen=True)
class Version:
    """A registered version, as its tags tell it.

    Attributes:
        number: counts from 1 in the order of registration.
        run_id: its MLflow run.
        model_hash: of the exported model, :func:`hash_model`.
        score: on validation, greater is better.
        metric: the name of what the score is.
        split_hash: of the split it was trained and scored on.
        by_hand: set where a person made it champion, and no other later.
    """

    number: int
    run_id: str
    model_hash: str
    score: float
    metric: str
    split_hash: str
    by_hand: ByHand | None = None


@dataclass(frozen=True)
class Choice:
    """What the rules say.

    Attributes:
        winner: the candidate that deserves the alias and a version; None where no candidate does.
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


def lead(versions: Sequence[Version], split_hash: str, metric: str) -> tuple[Version | None, float]:
    """Which of the registered versions deserves the alias, and what a candidate must exceed.

    The best validation score of this split and metric leads, the first of equals. A choice by hand stands before all
    that was registered when it was made, whatever the split, and gives way to what is registered later and is better
    than everything of this split and metric that was there.

    Returns:
        The version, None where there is none, and the score, minus infinity where any will do.
    """
    hand = max((v for v in versions if v.by_hand), key=lambda v: v.by_hand.after if v.by_hand else 0, default=None)
    after = hand.by_hand.after if hand and hand.by_hand else 0
    pool = [v for v in versions if (v.split_hash, v.metric) == (split_hash, metric)]
    bar = max((v.score for v in pool if v.number <= after), default=-math.inf)
    later = [v for v in pool if v.number > after and v.score > bar]
    best = max(later, key=lambda v: (v.score, -v.number), default=hand)
    return best, max([bar, *(v.score for v in later)])


def choose(candidates: Sequence[Candidate], versions: Sequence[Version], split_hash: str, metric: str) -> Choice:
    """Apply the rules of promotion to candidates.

    The best finite validation score wins among candidates of this split and metric, the first of equals, if it is
    strictly greater than what :func:`lead` asks for. One of another split or metric is not comparable and asks nothing.
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
    leader, bar = lead(versions, split_hash, metric)
    what = f"best candidate's {best.score:.6g} on validation ({metric}) is"
    if best.score > bar:
        return Choice(best, f"{what} {f'above {bar:.6g}' if math.isfinite(bar) else 'the first on its split'}", skipped)
    if leader is not None and leader.by_hand:
        reason = (
            f"{what} not above {bar:.6g}, the best that was registered when version {leader.number} was chosen by hand"
        )
        return Choice(None, f"{reason} ({leader.by_hand.reason})", skipped)
    return Choice(None, f"{what} not above the champion's {bar:.6g}", skipped)


def promote(
    store: Store,
    candidates: Sequence[Candidate],
    data: str,
    label_ratio: float,
    split_hash: str,
    metric: str,
    code: ModelCode,
) -> Decision:
    """Give the alias ``champion`` of a data set and label ratio to whom it belongs by :func:`choose` and :func:`lead`.

    Only a winner gets a version, one for each run and model hash; a repeated call, or one after a kill, adds none.
    The former champion becomes ``previous``. Any number of processes may do so at once, on a database or a server.

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
        there = _patient(lambda: _read(client, name))
        _holder(there, name)
        choice = choose(candidates, there.versions, split_hash, metric)
        if (winner := choice.winner) is not None:
            _patient(lambda: _register(client, name, winner, code))
        champion, moved = _settle(client, name, split_hash, metric)
        if champion is None:
            reasons = "".join(f"; run {run_id}: {why}" for run_id, why in choice.skipped.items())
            raise TrackingError(f"'{name}' gets no champion: {choice.reason}{reasons}")
        now = _read(client, name)
        # A winner that does not lead has met a better one, which another process has registered meanwhile.
        reason = moved or choose(candidates, now.versions, split_hash, metric).reason
    action: Literal["promoted", "kept"] = "promoted" if moved else "kept"
    return Decision(name, action, champion, now.aliases.get(PREVIOUS), reason, choice.skipped)


def promote_by_hand(store: Store, name: str, which: str, reason: str) -> Decision:
    """Make a registered version champion because a person says so.

    The choice is kept in the version's tags and stands before all that is registered now: from then on
    :func:`promote` moves the alias to a model alone that is registered later and better, by validation, than every
    version of its split that was there (:func:`lead`).

    Args:
        store: where models are.
        name: of the registered model.
        which: the version's number or alias.
        reason: why.

    Raises:
        TrackingError: there is no such version, it is champion already, it was not trained at a label ratio, there
            is no reason, or the store fails.
    """
    if not reason.strip():
        raise TrackingError("a choice by hand needs a reason")
    client = store.client
    with one_sentence(f"registered model '{name}' cannot be updated in {store.uri}"):
        number = find_version(store, name, which)
        there = _read(client, name)
        chosen = {str(version.number): version for version in there.versions}.get(number)
        if chosen is None or "label_ratio" not in there.entities[number].tags:
            raise TrackingError(f"version {number} of '{name}' was not trained by avsl at a label ratio")
        if there.aliases.get(CHAMPION) == number:
            raise TrackingError(f"version {number} of '{name}' is its champion already")
        after = max(version.number for version in there.versions)
        # The reason first: what counts is complete once the second is there.
        _patient(lambda: client.set_model_version_tag(name, number, _BY_HAND, reason.strip()))
        _patient(lambda: client.set_model_version_tag(name, number, _BY_HAND_AFTER, str(after)))
        for version in there.versions:
            if version.by_hand and version is not chosen:
                _withdraw(client, name, str(version.number))
        champion, moved = _settle(client, name, chosen.split_hash, chosen.metric)
        previous = _read(client, name).aliases.get(PREVIOUS)
    if champion != number:
        raise TrackingError(f"version {champion} of '{name}' took the place of version {number} at the same time")
    return Decision(name, "promoted", number, previous, moved, {})


def roll_back(store: Store, name: str, reason: str) -> Decision:
    """Give the alias back to the version that had it before, by hand: :func:`promote_by_hand` of ``previous``.

    Raises:
        TrackingError: there was no champion before, there is no reason, or the store fails.
    """
    return promote_by_hand(store, name, PREVIOUS, reason)


def find_version(store: Store, name: str, which: str) -> str:
    """The number of the version that ``which``, a number or an alias, means.

    Raises:
        TrackingError: there is none; says what there is.
    """
    with one_sentence(f"registered model '{name}' cannot be read in {store.uri}"):
        there = _read(store.client, name)
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


def _read(client: MlflowClient, name: str) -> _Registered:
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
    by_hand = ByHand(tags[_BY_HAND], int(tags[_BY_HAND_AFTER])) if {_BY_HAND, _BY_HAND_AFTER} <= tags.keys() else None
    try:
        return Version(
            number=int(entity.version),
            run_id=tags["run_id"],
            model_hash=tags["model_hash"],
            score=float(tags["validation_score"]),
            metric=tags["metric"],
            split_hash=tags["split_hash"],
            by_hand=by_hand,
        )
    except (KeyError, ValueError):
        return None


def _holder(there: _Registered, name: str) -> Version | None:
    """The version that holds the alias ``champion``."""
    number = there.aliases.get(CHAMPION)
    for version in there.versions:
        if str(version.number) == number:
            return version
    if number is not None:
        raise TrackingError(f"version {number} of '{name}' holds the alias {CHAMPION} but was not registered by avsl")
    return None


def _settle(client: MlflowClient, name: str, split_hash: str, metric: str) -> tuple[str | None, str]:
    """Bring aliases and tags into line with :func:`lead`, whoever else is at it.

    MLflow cannot compare and set. But each version is registered before its process looks who leads, and each process
    looks again after it has written, until it finds nothing to write: so the last to write has seen every version that
    could lead, and its leader is the one.

    Returns:
        The champion's number, None where there is none, and why this call moved the alias, empty where it did not.
    """
    moved = ""
    for _ in range(_PASSES):
        champion, changed, reason = _patient(lambda: _pass(client, name, split_hash, metric))
        moved = reason or moved
        if not changed:
            return champion, moved
    raise TrackingError(f"'{name}' did not come to rest in {_PASSES} passes: other processes go on changing it")


def _pass(client: MlflowClient, name: str, split_hash: str, metric: str) -> tuple[str | None, bool, str]:
    """One look and what it asks to write: the champion, whether anything was written, and why the alias moved."""
    there = _read(client, name)
    holder = _holder(there, name)
    old = str(holder.number) if holder else None
    leader, _ = lead(there.versions, split_hash, metric)
    if leader is None:
        return old, False, ""
    new = str(leader.number)
    changed = False
    for version in there.versions:
        number = str(version.number)
        superseded = _SUPERSEDED in there.entities[number].tags
        if superseded and number == new:
            client.delete_model_version_tag(name, new, _SUPERSEDED)
        elif not superseded and number != new:
            client.set_model_version_tag(name, number, _SUPERSEDED, _why(version, leader))
        else:
            continue
        changed = True
    if there.description != (card := there.entities[new].description or ""):
        client.update_registered_model(name, card)
        changed = True
    if old == new:
        if there.aliases.get(PREVIOUS) == new:
            # A call was killed after its first alias, or two crossed.
            client.delete_registered_model_alias(name, PREVIOUS)
            changed = True
        return new, changed, ""
    reason = _why(holder, leader)
    if old:
        # First the old one: a call killed in between is completed by the next.
        client.set_registered_model_alias(name, PREVIOUS, old)
    client.set_model_version_tag(name, new, "promoted_because", reason)
    # Last, so that a pass that is cut short and repeated still tells why it moved.
    client.set_registered_model_alias(name, CHAMPION, new)
    return new, True, reason


def _why(old: Version | None, new: Version) -> str:
    """Why ``new`` leads and ``old`` does not."""
    where = f"on validation ({new.metric})"
    if new.by_hand and (old is None or old.number <= new.by_hand.after):
        return f"version {new.number} was chosen by hand: {new.by_hand.reason}"
    if old is None:
        return f"first champion, {new.score:.6g} {where}"
    if old.split_hash != new.split_hash:
        return f"split {new.split_hash} takes the place of {old.split_hash}"
    if old.metric != new.metric:
        return f"metric {new.metric} takes the place of {old.metric}"
    if old.score < new.score:
        return f"{new.score:.6g} is above {old.score:.6g} {where}"
    return f"version {new.number} had {new.score:.6g} {where} first"


def _patient(step: Callable[[], _T]) -> _T:
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


def _register(client: MlflowClient, name: str, candidate: Candidate, code: ModelCode) -> None:
    """Give a candidate its one version, with the tags and the card of its present scores."""
    tags = _version_tags(candidate)
    same = _numbers_with(client, name, run_id=candidate.run_id, model_hash=candidate.model_hash)
    if not same:
        own = _add_version(client, name, candidate.model_dir, tags, code, candidate.card)
        same = _numbers_with(client, name, run_id=candidate.run_id, model_hash=candidate.model_hash)
        if own != same[0]:
            # Another process was faster. Each takes back its own alone: a number that is free is given again.
            client.delete_model_version(name, own)
    first = same[0]
    entity = client.get_model_version(name, first)
    for key, value in tags.items():
        if entity.tags.get(key) != value:
            client.set_model_version_tag(name, first, key, value)
    if (entity.description or "") != candidate.card:
        client.update_model_version(name, first, candidate.card)


def _withdraw(client: MlflowClient, name: str, number: str) -> None:
    """Make a choice by hand one of the past."""
    _patient(lambda: client.delete_model_version_tag(name, number, _BY_HAND_AFTER))


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


def _version_tags(candidate: Candidate) -> dict[str, str]:
    return {
        "data": candidate.data,
        "label_ratio": str(candidate.label_ratio),
        "framework": candidate.framework,
        "objective": candidate.objective,
        "run_id": candidate.run_id,
        "model_hash": candidate.model_hash,
        "split_hash": candidate.split_hash,
        "metric": candidate.metric,
        # repr keeps every digit: an equal score must not look greater when read back.
        "validation_score": repr(float(candidate.score)),
        **{f"test.{key}": repr(float(value)) for key, value in candidate.test_metrics.items()},
    }
