"""The rules of promotion, pure: which version deserves the alias ``champion``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


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


def model_name(data: str, label_ratio: float) -> str:
    """The registered model of a data set and label ratio: ``avsl-synthetic-ratio-0.03``, ``...-1.0``.

    Raises:
        ValueError: the ratio is not in (0, 1].
    """
    if not 0 < label_ratio <= 1:
        raise ValueError(f"label ratio {label_ratio} is not in (0, 1]")
    return f"avsl-{data}-ratio-{float(label_ratio)}"


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


def explain(old: Version | None, new: Version) -> str:
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
