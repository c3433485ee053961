"""The rules of promotion, pure: which version deserves the alias ``champion``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from avsl.evaluation.outcomes import Outcomes, compare_outcomes

Prefer = Literal["cost", "score"]


@dataclass(frozen=True)
class Candidate:
    """A trained model that may become champion: one seed of a method, which is a framework over an objective.

    Attributes:
        run_id: its MLflow run.
        framework: that trained it.
        objective: below that framework.
        score: on validation, greater is better.
        metric: the name of what the score is.
        split_hash: of the validation clips it was scored on.
        data: the data set's name.
        label_ratio: in (0, 1].
        model_dir: the exported model's folder.
        model_hash: of that folder, :func:`hash_model`.
        test_metrics: evidence attached to the version; never decides.
        seed: of the training.
        cost: of serving it, in parameters of all its members.
        outcomes: of each validation sample; None says nothing about pairs of methods.
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
    seed: int = 0
    cost: int = 0
    outcomes: Outcomes | None = None

    @property
    def method(self) -> str:
        """The framework over the objective."""
        return f"{self.framework}-{self.objective}"

    @property
    def model(self) -> tuple[str, str]:
        """What tells it from every other: a run, resumed with other settings, may have left several."""
        return self.run_id, self.model_hash


@dataclass(frozen=True, order=True)
class Rank:
    """What versions are ordered by; the greater leads.

    Attributes:
        seeds: that its method was trained with: a mean over fewer seeds does not compete with one over more.
        level: mean validation score of the method over them, or that of the best method from which it is not told apart
            if it was preferred to that as the cheaper one.
        saving: minus the cost of serving it; decides between equal levels.
        score: of the version itself.
    """

    seeds: int
    level: float
    saving: float
    score: float

    def __str__(self) -> str:
        return f"{self.level:.6g} over {self.seeds} seed{'' if self.seeds == 1 else 's'}"


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
        split_hash: of the validation clips it was scored on.
        rank: among the versions of these validation clips.
        by_hand: set where a person made it champion, and no other later.
    """

    number: int
    run_id: str
    model_hash: str
    score: float
    metric: str
    split_hash: str
    rank: Rank
    by_hand: ByHand | None = None


@dataclass(frozen=True)
class Contest:
    """Candidates against each other, whatever is registered.

    Attributes:
        winner: None where no candidate may compete.
        ranks: of every candidate of the current validation clips and metric with a finite score, by its run and hash.
        evidence: a sentence on the winner; empty where there is none.
        skipped: why a candidate did not compete, by run id.
    """

    winner: Candidate | None
    ranks: Mapping[tuple[str, str], Rank]
    evidence: str
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """What the rules say of a contest's winner.

    Attributes:
        winner: the candidate that deserves the alias and a version; None where no candidate does.
        reason: one sentence.
    """

    winner: Candidate | None
    reason: str


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


def judge(candidates: Sequence[Candidate], split_hash: str, metric: str, prefer: Prefer = "cost") -> Contest:
    """Choose among candidates: first the method, then its seed.

    Those of other validation clips, another metric or without a finite score do not compete, and neither does a method
    with fewer seeds than another. The method with the highest mean score over its seeds wins or, among those that are
    not told apart from it (paired, `avsl.statistics.compare_pairs`), the one that costs least to serve; of equal
    costs, the one with the higher mean. Of that method the seed with the highest score wins, the first of equals.

    Args:
        candidates: of one data set and label ratio.
        split_hash: of the current validation clips.
        metric: the validation metric's name.
        prefer: ``score`` chooses the highest mean and ignores the cost.
    """
    skipped = {}
    for candidate in candidates:
        if candidate.split_hash != split_hash:
            skipped[candidate.run_id] = f"split {candidate.split_hash} is not the current {split_hash}"
        elif candidate.metric != metric:
            skipped[candidate.run_id] = f"metric {candidate.metric} is not {metric}"
        elif not math.isfinite(candidate.score):
            skipped[candidate.run_id] = f"validation {metric} is {candidate.score}"
    methods: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.run_id not in skipped:
            methods.setdefault(candidate.method, []).append(candidate)
    if not methods:
        return Contest(None, {}, "", skipped)
    means = {method: fmean(candidate.score for candidate in of) for method, of in methods.items()}
    ranks = {
        candidate.model: Rank(len(of), means[method], -candidate.cost, candidate.score)
        for method, of in methods.items()
        for candidate in of
    }
    most = max(map(len, methods.values()))
    for method, of in methods.items():
        if len(of) < most:
            why = f"{method} has {_seeds(len(of))}, another method {most}"
            skipped |= dict.fromkeys((candidate.run_id for candidate in of), why)
    full = {method: of for method, of in methods.items() if len(of) == most}
    best = max(full, key=means.__getitem__)
    tied = _not_told_apart(full, best)
    chosen = best
    if prefer == "cost":
        chosen = min([best, *tied], key=lambda method: (max(c.cost for c in full[method]), -means[method]))
    winner = max(full[chosen], key=lambda candidate: candidate.score)
    ranks[winner.model] = replace(ranks[winner.model], level=means[best])
    evidence = _evidence(full, means, best, tied, winner)
    return Contest(winner, ranks, evidence, skipped)


def _not_told_apart(methods: Mapping[str, Sequence[Candidate]], best: str) -> list[str]:
    """The methods that the paired comparison on validation does not tell apart from the best."""
    outcomes = {
        method: {candidate.seed: candidate.outcomes for candidate in of if candidate.outcomes is not None}
        for method, of in methods.items()
    }
    pairs = compare_outcomes({method: seeds for method, seeds in outcomes.items() if seeds})
    found = {
        pair.first if pair.second == best else pair.second
        for pair in pairs
        if best in (pair.first, pair.second) and pair.verdict == "not told apart"
    }
    return [method for method in methods if method in found]


def _evidence(
    methods: Mapping[str, Sequence[Candidate]],
    means: Mapping[str, float],
    best: str,
    tied: Sequence[str],
    winner: Candidate,
) -> str:
    scores = [candidate.score for candidate in methods[winner.method]]
    spread = f" (SD {stdev(scores):.3g})" if len(scores) > 1 else ""
    parts = [
        f"{winner.method} has {means[winner.method]:.6g} on validation ({winner.metric}) over "
        f"{_seeds(len(scores))}{spread}"
    ]
    if winner.method != best:
        parts.append(
            f"not told apart from {best} with {means[best]:.6g}, and cheaper: {winner.cost:,} parameters, "
            f"not {max(c.cost for c in methods[best]):,}"
        )
    else:
        parts.append(f"the highest of {len(methods)} method{'' if len(methods) == 1 else 's'}")
        if tied:
            parts.append(f"not told apart from {', '.join(tied)}")
    if len(scores) > 1:
        parts.append(f"seed {winner.seed} is its best with {winner.score:.6g}")
    return "; ".join(parts)


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'}"


def lead(versions: Sequence[Version], split_hash: str, metric: str) -> tuple[Version | None, Rank | None]:
    """Which of the registered versions deserves the alias, and the rank that a candidate must exceed.

    The highest rank of these validation clips and this metric leads, the first of equals. A choice by hand stands
    before all that was registered when it was made, whatever the split, and gives way to what is registered later and
    is better than everything of this split and metric that was there.

    Returns:
        The version, None where there is none, and the rank, None where any will do.
    """
    hand = max((v for v in versions if v.by_hand), key=lambda v: v.by_hand.after if v.by_hand else 0, default=None)
    after = hand.by_hand.after if hand and hand.by_hand else 0
    pool = [v for v in versions if (v.split_hash, v.metric) == (split_hash, metric)]
    bar = max((v.rank for v in pool if v.number <= after), default=None)
    later = [v for v in pool if v.number > after and (bar is None or v.rank > bar)]
    best = max(later, key=lambda v: (v.rank, -v.number), default=hand)
    return best, max((v.rank for v in later), default=bar)


def choose(contest: Contest, versions: Sequence[Version], split_hash: str, metric: str) -> Choice:
    """Whether a contest's winner takes the alias: if its rank is strictly greater than what :func:`lead` asks for."""
    winner = contest.winner
    if winner is None:
        return Choice(None, f"no candidate has a validation {metric} on split {split_hash}")
    leader, bar = lead(versions, split_hash, metric)
    rank = contest.ranks[winner.model]
    if bar is None:
        return Choice(winner, f"{contest.evidence}; the first on its split")
    if rank > bar:
        return Choice(winner, f"{contest.evidence}; above {bar}")
    if leader is not None and leader.by_hand:
        reason = f"not above {bar}, the best that was registered when version {leader.number} was chosen by hand"
        return Choice(None, f"{contest.evidence}; {reason} ({leader.by_hand.reason})")
    return Choice(None, f"{contest.evidence}; not above the champion's {bar}")


def explain(old: Version | None, new: Version) -> str:
    """Why ``new`` leads and ``old`` does not."""
    where = f"on validation ({new.metric})"
    if new.by_hand and (old is None or old.number <= new.by_hand.after):
        return f"version {new.number} was chosen by hand: {new.by_hand.reason}"
    if old is None:
        return f"first champion, {new.rank} {where}"
    if old.split_hash != new.split_hash:
        return f"split {new.split_hash} takes the place of {old.split_hash}"
    if old.metric != new.metric:
        return f"metric {new.metric} takes the place of {old.metric}"
    if old.rank == new.rank:
        return f"version {new.number} had {new.rank} {where} first"
    if (old.rank.seeds, old.rank.level) != (new.rank.seeds, new.rank.level):
        return f"{new.rank} is above {old.rank} {where}"
    if old.rank.saving != new.rank.saving:
        return f"its method costs less to serve: {-new.rank.saving:,.0f} parameters, not {-old.rank.saving:,.0f}"
    return f"of its method's seeds it has {new.score:.6g}, not {old.score:.6g}, {where}"
