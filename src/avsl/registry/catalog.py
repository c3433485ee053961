"""What the registry holds, for people to read: versions in a list, two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from avsl.registry.versions import find_version
from avsl.tracking.store import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_WHY = ("superseded_because", "promoted_because")


def list_versions(store: Store) -> list[dict[str, str]]:
    """Every version of the models that avsl registered, models in order of their names, the newest version first.

    Returns:
        A row for each: ``model``, ``labels`` (the ratio), ``version``, ``alias``, ``framework``, ``objective``,
        ``validation`` and ``test`` (CIoU@0.5, per cent), ``registered`` (UTC), ``why`` (it is or is no longer
        champion).

    Raises:
        TrackingError: the store fails.
    """
    with one_sentence(f"the registered models cannot be read in {store.uri}"):
        rows = []
        for model in sorted(store.client.search_registered_models("name LIKE 'avsl-%'"), key=lambda m: m.name):
            found = store.client.search_model_versions(f"name = '{model.name}'")
            aliases: dict[str, list[str]] = {}
            for alias, number in sorted(model.aliases.items()):
                aliases.setdefault(str(number), []).append(alias)
            for version in sorted(found, key=lambda entity: -int(entity.version)):
                rows.append(_row(version, aliases.get(str(version.version), [])))
    return rows


def _row(version: ModelVersion, aliases: list[str]) -> dict[str, str]:
    tags = version.tags
    when = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "model": version.name,
        "labels": tags.get("label_ratio", ""),
        "version": str(version.version),
        "alias": ", ".join(aliases),
        "framework": tags.get("framework", tags.get("method", "")),
        "objective": tags.get("objective", ""),
        "validation": _percent(tags.get("validation_score")),
        "test": _percent(tags.get("test.ciou")),
        "registered": f"{when:%Y-%m-%d %H:%M}",
        "why": next((tags[key] for key in _WHY if key in tags), ""),
    }


def _percent(score: str | None) -> str:
    return "" if score is None else f"{100 * float(score):.1f}"


def diff_versions(store: Store, name: str, first: str, second: str) -> dict[str, tuple[str, str]]:
    """What differs between two versions of a model: settings of their runs, then scores and other tags.

    Args:
        store: where they are.
        name: of the registered model.
        first: a version's number or alias.
        second: another's.

    Returns:
        Both values by setting or tag, empty text where one lacks it; only what differs.

    Raises:
        TrackingError: a version is not there, both are the same, or the store fails.
    """
    numbers = [find_version(store, name, which) for which in (first, second)]
    if numbers[0] == numbers[1]:
        raise TrackingError(f"'{first}' and '{second}' are both version {numbers[0]} of '{name}'")
    sides = [_described(store, name, number) for number in numbers]
    keys = dict.fromkeys(key for side in sides for key in side)
    pairs = {key: (sides[0].get(key, ""), sides[1].get(key, "")) for key in keys}
    return {key: (left, right) for key, (left, right) in pairs.items() if left != right}


def _described(store: Store, name: str, number: str) -> Mapping[str, str]:
    with one_sentence(f"version {number} of '{name}' cannot be read in {store.uri}"):
        version = store.client.get_model_version(name, number)
        settings = store.client.get_run(version.run_id).data.params if version.run_id else {}
    return {"version": number} | dict(sorted(settings.items())) | dict(sorted(version.tags.items()))
