"""Promotion on a registry with many writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from avsl.registry.rules import Candidate, Decision, Prefer, choose, explain, judge, lead, model_name
from avsl.registry.versions import (
    BY_HAND,
    BY_HAND_AFTER,
    CHAMPION,
    PREVIOUS,
    SUPERSEDED,
    ModelCode,
    add_candidate,
    champion_of,
    find_version,
    read_registered,
    retry_conflicts,
    update_ranks,
    withdraw_choice,
)
from avsl.tracking.store import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Far more than processes that only add versions can make of each other's work.
_PASSES = 100


def promote(
    store: Store,
    candidates: Sequence[Candidate],
    data: str,
    label_ratio: float,
    split_hash: str,
    metric: str,
    code: ModelCode,
    *,
    prefer: Prefer = "cost",
    describe: Callable[[Candidate, str], str] = lambda _, evidence: evidence,
) -> Decision:
    """Assign the alias ``champion`` of a data set and label ratio by the rules of :func:`judge` and :func:`lead`.

    Versions of candidates are given the ranks these have now, as seeds may have been added. Only a winner gets a
    version, one for each run and model hash; a repeated call, or one after a kill, adds none. The former champion
    becomes ``previous``. Any number of processes may do so at once, on a database or a server.

    Args:
        store: where runs and models are.
        candidates: trained on this data set and label ratio, all seeds of all methods.
        data: the data set's name.
        label_ratio: in (0, 1].
        split_hash: of the current validation clips; candidates of others do not compete.
        metric: the validation metric's name; candidates scored by others do not compete.
        code: carried by a new version.
        prefer: among methods that are not told apart, the one that costs less to serve or the one that scores higher.
        describe: the Markdown on a new champion's page, from the candidate and the evidence for it.

    Raises:
        TrackingError: a candidate is of another data set or ratio, there is neither a candidate that may compete
            nor a champion, or the store fails.
        DataError: candidates were evaluated on different validation samples.
    """
    name = model_name(data, label_ratio)
    for candidate in candidates:
        if (candidate.data, candidate.label_ratio) != (data, label_ratio):
            raise TrackingError(
                f"run {candidate.run_id} was trained on {candidate.data} at label ratio {candidate.label_ratio},"
                f" so it cannot become {name}"
            )
    contest = judge(candidates, split_hash, metric, prefer)
    client = store.client
    with one_sentence(f"registered model '{name}' cannot be updated in {store.uri}"):
        there = retry_conflicts(lambda: read_registered(client, name))
        champion_of(there, name)
        if retry_conflicts(lambda: update_ranks(client, name, there, contest)):
            there = retry_conflicts(lambda: read_registered(client, name))
        choice = choose(contest, there.versions, split_hash, metric)
        if (winner := choice.winner) is not None:
            card = describe(winner, contest.evidence)
            retry_conflicts(lambda: add_candidate(client, name, winner, contest, card, code))
        champion, moved = _settle(client, name, split_hash, metric)
        if champion is None:
            reasons = "".join(f"; run {run_id}: {why}" for run_id, why in contest.skipped.items())
            raise TrackingError(f"'{name}' gets no champion: {choice.reason}{reasons}")
        now = read_registered(client, name)
        # A winner that does not lead has met a better one, which another process has registered meanwhile.
        reason = moved or choose(contest, now.versions, split_hash, metric).reason
    action: Literal["promoted", "kept"] = "promoted" if moved else "kept"
    return Decision(name, action, champion, now.aliases.get(PREVIOUS), reason, contest.skipped)


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
        there = read_registered(client, name)
        chosen = {str(version.number): version for version in there.versions}.get(number)
        if chosen is None or "label_ratio" not in there.entities[number].tags:
            raise TrackingError(f"version {number} of '{name}' was not trained by avsl at a label ratio")
        if there.aliases.get(CHAMPION) == number:
            raise TrackingError(f"version {number} of '{name}' is its champion already")
        after = max(version.number for version in there.versions)
        # The reason first: what counts is complete once the second is there.
        retry_conflicts(lambda: client.set_model_version_tag(name, number, BY_HAND, reason.strip()))
        retry_conflicts(lambda: client.set_model_version_tag(name, number, BY_HAND_AFTER, str(after)))
        for version in there.versions:
            if version.by_hand and version is not chosen:
                withdraw_choice(client, name, str(version.number))
        champion, moved = _settle(client, name, chosen.split_hash, chosen.metric)
        previous = read_registered(client, name).aliases.get(PREVIOUS)
    if champion != number:
        raise TrackingError(f"version {champion} of '{name}' took the place of version {number} at the same time")
    return Decision(name, "promoted", number, previous, moved, {})


def roll_back(store: Store, name: str, reason: str) -> Decision:
    """Give the alias back to the version that had it before, by hand: :func:`promote_by_hand` of ``previous``.

    Raises:
        TrackingError: there was no champion before, there is no reason, or the store fails.
    """
    return promote_by_hand(store, name, PREVIOUS, reason)


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
        champion, changed, reason = retry_conflicts(lambda: _pass(client, name, split_hash, metric))
        moved = reason or moved
        if not changed:
            return champion, moved
    raise TrackingError(f"'{name}' did not come to rest in {_PASSES} passes: other processes go on changing it")


def _pass(client: MlflowClient, name: str, split_hash: str, metric: str) -> tuple[str | None, bool, str]:
    """One look and what it asks to write: the champion, whether anything was written, and why the alias moved."""
    there = read_registered(client, name)
    holder = champion_of(there, name)
    old = str(holder.number) if holder else None
    leader, _ = lead(there.versions, split_hash, metric)
    if leader is None:
        return old, False, ""
    new = str(leader.number)
    changed = False
    for version in there.versions:
        number = str(version.number)
        superseded = SUPERSEDED in there.entities[number].tags
        if superseded and number == new:
            client.delete_model_version_tag(name, new, SUPERSEDED)
        elif not superseded and number != new:
            client.set_model_version_tag(name, number, SUPERSEDED, explain(version, leader))
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
    reason = explain(holder, leader)
    if old:
        # First the old one: a call killed in between is completed by the next.
        client.set_registered_model_alias(name, PREVIOUS, old)
    client.set_model_version_tag(name, new, "promoted_because", reason)
    # Last, so that a pass that is cut short and repeated still tells why it moved.
    client.set_registered_model_alias(name, CHAMPION, new)
    return new, True, reason
