"""The rules of promotion, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts, says

from avsl.evaluation.outcomes import Outcomes
from avsl.registry.rules import ByHand, Candidate, Choice, Rank, Version, choose, explain, judge, lead, model_name

_ANY = Candidate("r", "dmt", "ezvsl", 0.5, "ciou50", "s1", "synthetic", 0.03, Path(), "h")


def _version(number: int, score: float, *, seeds: int = 1, level: float | None = None, saving: float = 0.0) -> Version:
    rank = Rank(seeds, score if level is None else level, saving, score)
    return Version(number, f"old {number}", f"h{number}", score, "ciou50", "s1", rank)


_CHAMPION = _version(1, 0.5)


def _choose(candidates: Sequence[Candidate], versions: Sequence[Version]) -> Choice:
    return choose(judge(candidates, "s1", "ciou50"), versions, "s1", "ciou50")


def _method(framework: str, found: int, *, cost: int, n_seeds: int = 3, first: int = 0) -> list[Candidate]:
    """Seeds of a method that finds so many of 300 clips, from the ``first`` on; each seed finds two more."""
    clips = [f"v{k}" for k in range(300)]
    of = replace(_ANY, framework=framework, cost=cost)
    candidates = []
    for seed in range(n_seeds):
        hits = np.zeros(300)
        hits[first : first + found + 2 * (seed - 1)] = 1
        outcomes = Outcomes(Path(framework), clips, clips, hits)
        score = float(hits.mean())
        candidates.append(replace(of, run_id=f"{framework} {seed}", seed=seed, score=score, outcomes=outcomes))
    return candidates


def test_model_names() -> None:
    """A ratio is written as a decimal number, 1 too, and must be a share."""
    names = [model_name("synthetic", ratio) for ratio in (0.03, 0.1, 1)]
    assert names == ["avsl-synthetic-ratio-0.03", "avsl-synthetic-ratio-0.1", "avsl-synthetic-ratio-1.0"]
    for ratio in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=facts(ratio)):
            model_name("synthetic", ratio)


@pytest.mark.parametrize(
    ("score", "champion", "wins"),
    [
        (0.4, None, True),
        (0.6, _CHAMPION, True),
        (0.5, _CHAMPION, False),
        (0.4, _CHAMPION, False),
        (0.4, replace(_CHAMPION, split_hash="s0"), True),
        (0.4, replace(_CHAMPION, metric="auc"), True),
        (0.6, _version(1, 0.5, seeds=3), False),
        (float("nan"), None, False),
        (float("inf"), None, False),
    ],
)
def test_champion_gives_way_to_strictly_better_or_incomparable(
    score: float, champion: Version | None, wins: bool
) -> None:
    """Equal or worse never takes the alias, nor a mean over fewer seeds; another split or metric is no competitor."""
    assert (_choose([replace(_ANY, score=score)], [champion] if champion else []).winner is not None) == wins


def test_of_one_seed_each_the_best_validation_score_wins_whatever_the_test_says() -> None:
    """The first of equals wins; test metrics do not count, and without a verdict on methods neither does cost."""
    first, tied, worse = (
        replace(_ANY, run_id=name, framework=name, score=score, test_metrics={"ciou50": test}, cost=cost)
        for name, score, test, cost in (("first", 0.6, 0.1, 9), ("tied", 0.6, 0.9, 9), ("worse", 0.5, 0.99, 1))
    )
    assert judge([worse, first, tied], "s1", "ciou50").winner is first


def test_other_splits_and_metrics_do_not_compete() -> None:
    """They are left out, with the reason."""
    split = replace(_ANY, run_id="split", score=0.9, split_hash="s2")
    metric = replace(_ANY, run_id="metric", score=0.9, metric="auc")
    contest = judge([split, metric, _ANY], "s1", "ciou50")
    assert contest.winner is _ANY
    assert contest.skipped.keys() == {"split", "metric"}
    assert says(contest.skipped["split"], "s1 s2")
    assert says(contest.skipped["metric"], "auc ciou50")


def test_the_method_is_chosen_by_its_mean_and_its_seed_by_its_score() -> None:
    """A lucky seed of a worse method does not win; the evidence says mean, number of seeds and the seed."""
    good = _method("dmt", 210, cost=2)
    lucky = _method("supervised", 150, cost=1)
    lucky[1] = replace(lucky[1], score=0.99)
    contest = judge([*lucky, *good], "s1", "ciou50")
    assert contest.winner is max(good, key=lambda candidate: candidate.score) is good[2]
    mean = sum(candidate.score for candidate in good) / 3
    assert says(contest.evidence, f"dmt-ezvsl {mean:.6g} 3 seeds seed 2 {good[2].score:.6g}")


def test_of_methods_not_told_apart_the_cheaper_one_wins() -> None:
    """Not one that is told to be worse; ``score`` takes the highest mean whatever it costs, equal costs too."""
    dear, cheap, worse = (
        _method("dmt", 210, cost=2),
        _method("pseudo_label", 209, cost=1, first=5),
        _method("x", 150, cost=0),
    )
    everything = [*dear, *cheap, *worse]
    contest = judge(everything, "s1", "ciou50")
    assert contest.winner is cheap[2]
    assert says(contest.evidence, "pseudo_label-ezvsl not told apart dmt-ezvsl 1 2 parameters")
    assert judge(everything, "s1", "ciou50", "score").winner is dear[2]
    level = [replace(candidate, cost=2) for candidate in cheap]
    assert judge([*level, *dear, *worse], "s1", "ciou50").winner is dear[2]
    # Without outcomes nothing says that they are not told apart.
    assert judge([replace(c, outcomes=None) for c in everything], "s1", "ciou50").winner == replace(
        dear[2], outcomes=None
    )


def test_a_method_with_fewer_seeds_does_not_compete() -> None:
    """However good; it is said why."""
    good, few = _method("dmt", 180, cost=1), _method("xpl", 270, cost=1, n_seeds=2)
    contest = judge([*few, *good], "s1", "ciou50")
    assert contest.winner is good[2]
    assert contest.skipped.keys() == {"xpl 0", "xpl 1"}
    assert says(contest.skipped["xpl 0"], "xpl-ezvsl 2 seeds 3")


def test_a_cheaper_method_takes_the_place_of_the_champion_that_it_is_not_told_apart_from() -> None:
    """Though its mean is lower; the champion does not come back, and a third method must exceed the better mean."""
    dear, cheap = _method("dmt", 210, cost=2), _method("pseudo_label", 209, cost=1, first=5)
    before, after = (judge(of, "s1", "ciou50") for of in (dear, [*dear, *cheap]))
    assert before.winner is not None
    assert after.winner is not None
    first = replace(_CHAMPION, rank=after.ranks[before.winner.model])
    assert choose(after, [first], "s1", "ciou50").winner is cheap[2]
    second = replace(first, number=2, rank=after.ranks[after.winner.model])
    assert lead([first, second], "s1", "ciou50") == (second, second.rank)
    assert says(explain(first, second), "costs 1 2")
    between = sum(candidate.score for candidate in [*dear, *cheap]) / 6
    third = [replace(_ANY, run_id=f"t{k}", framework="third", seed=k, score=between) for k in range(3)]
    assert choose(judge(third, "s1", "ciou50"), [first, second], "s1", "ciou50").winner is None


def test_the_best_registered_version_leads() -> None:
    """By rank on this split and metric, the first of equals; a candidate must exceed it."""
    second, third = (_version(n, 0.7) for n in (2, 3))
    elsewhere = [replace(_version(4, 0.9), split_hash="s2"), replace(_version(5, 0.5), metric="auc")]
    for versions in ([_CHAMPION, second, third, *elsewhere], [*elsewhere, third, second, _CHAMPION]):
        assert lead(versions, "s1", "ciou50") == (second, second.rank)
    assert lead(elsewhere, "s1", "ciou50") == (None, None)
    assert _choose([replace(_ANY, score=0.7)], [second]).winner is None
    more = _version(6, 0.6, seeds=3)
    assert lead([second, more], "s1", "ciou50") == (more, more.rank)


def test_a_choice_by_hand_stands_until_something_new_beats_all_that_was_there() -> None:
    """Known versions and candidates no better than the best of them change nothing, a later and better one does."""
    chosen = replace(_CHAMPION, by_hand=ByHand("smaller", after=2))
    best = _version(2, 0.7)
    assert lead([chosen, best], "s1", "ciou50") == (chosen, best.rank)
    choice = _choose([replace(_ANY, score=0.7)], [chosen, best])
    assert choice.winner is None
    assert says(choice.reason, "version 1 (smaller)")
    assert _choose([replace(_ANY, score=0.71)], [chosen, best]).winner is not None
    level, later = (_version(n, score) for n, score in ((3, 0.7), (4, 0.71)))
    assert lead([chosen, best, level], "s1", "ciou50") == (chosen, best.rank)
    assert lead([chosen, best, level, later], "s1", "ciou50") == (later, later.rank)
    # Of another split nothing is known to be beaten, but what was registered before the choice does not return.
    other = replace(_version(2, 0.9), split_hash="s2")
    assert lead([chosen, other], "s2", "ciou50") == (chosen, other.rank)
    newer = replace(_version(3, 0.95), split_hash="s2")
    assert lead([chosen, other, newer], "s2", "ciou50") == (newer, newer.rank)
    # The latest choice counts.
    again = replace(best, by_hand=ByHand("no, the best", after=3))
    assert lead([chosen, again, level], "s1", "ciou50") == (again, best.rank)
