"""The rules of promotion, alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures.messages import says

from avsl.registry.rules import ByHand, Candidate, Version, choose, lead, model_name

_ANY = Candidate("r", "dmt", "ezvsl", 0.5, "ciou50", "s1", "synthetic", 0.03, Path(), "h")
_CHAMPION = Version(1, "old", "h0", 0.5, "ciou50", "s1")


def test_model_names() -> None:
    """A ratio is written as a decimal number, 1 too, and must be a share."""
    names = [model_name("synthetic", ratio) for ratio in (0.03, 0.1, 1)]
    assert names == ["avsl-synthetic-ratio-0.03", "avsl-synthetic-ratio-0.1", "avsl-synthetic-ratio-1.0"]
    for ratio in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
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
        (float("nan"), None, False),
        (float("inf"), None, False),
    ],
)
def test_champion_gives_way_to_strictly_better_or_incomparable(
    score: float, champion: Version | None, wins: bool
) -> None:
    """Equal or worse never takes the alias; another split or metric is no competitor."""
    choice = choose([replace(_ANY, score=score)], [champion] if champion else [], "s1", "ciou50")
    assert (choice.winner is not None) == wins


def test_best_validation_score_wins_whatever_the_test_says() -> None:
    """The first of equals wins; test metrics do not count."""
    first = replace(_ANY, run_id="first", score=0.6, test_metrics={"ciou50": 0.1})
    tied = replace(_ANY, run_id="tied", score=0.6, test_metrics={"ciou50": 0.9})
    worse = replace(_ANY, run_id="worse", score=0.5, test_metrics={"ciou50": 0.99})
    assert choose([worse, first, tied], [], "s1", "ciou50").winner is first


def test_other_splits_and_metrics_do_not_compete() -> None:
    """They are left out, with the reason."""
    split = replace(_ANY, run_id="split", score=0.9, split_hash="s2")
    metric = replace(_ANY, run_id="metric", score=0.9, metric="auc")
    choice = choose([split, metric, _ANY], [], "s1", "ciou50")
    assert choice.winner is _ANY
    assert choice.skipped.keys() == {"split", "metric"}
    assert says(choice.skipped["split"], "s2 s1")
    assert says(choice.skipped["metric"], "auc ciou50")


def test_the_best_registered_version_leads() -> None:
    """By score on this split and metric, the first of equals; a candidate must exceed it."""
    second, third = (replace(_CHAMPION, number=n, score=0.7) for n in (2, 3))
    elsewhere = [replace(_CHAMPION, number=4, score=0.9, split_hash="s2"), replace(_CHAMPION, number=5, metric="auc")]
    for versions in ([_CHAMPION, second, third, *elsewhere], [*elsewhere, third, second, _CHAMPION]):
        assert lead(versions, "s1", "ciou50") == (second, 0.7)
    assert lead(elsewhere, "s1", "ciou50") == (None, float("-inf"))
    assert choose([replace(_ANY, score=0.7)], [second], "s1", "ciou50").winner is None


def test_a_choice_by_hand_stands_until_something_new_beats_all_that_was_there() -> None:
    """Known versions and candidates no better than the best of them change nothing, a later and better one does."""
    chosen = replace(_CHAMPION, by_hand=ByHand("smaller", after=2))
    best = replace(_CHAMPION, number=2, score=0.7)
    assert lead([chosen, best], "s1", "ciou50") == (chosen, 0.7)
    choice = choose([replace(_ANY, score=0.7)], [chosen, best], "s1", "ciou50")
    assert choice.winner is None
    assert says(choice.reason, "1 smaller")
    assert choose([replace(_ANY, score=0.71)], [chosen, best], "s1", "ciou50").winner is not None
    level, later = (replace(_CHAMPION, number=n, score=score) for n, score in ((3, 0.7), (4, 0.71)))
    assert lead([chosen, best, level], "s1", "ciou50") == (chosen, 0.7)
    assert lead([chosen, best, level, later], "s1", "ciou50") == (later, 0.71)
    # Of another split nothing is known to be beaten, but what was registered before the choice does not return.
    other = replace(_CHAMPION, number=2, split_hash="s2", score=0.9)
    assert lead([chosen, other], "s2", "ciou50") == (chosen, 0.9)
    newer = replace(other, number=3, score=0.95)
    assert lead([chosen, other, newer], "s2", "ciou50") == (newer, 0.95)
    # The latest choice counts.
    again = replace(best, by_hand=ByHand("no, the best", after=3))
    assert lead([chosen, again, level], "s1", "ciou50") == (again, 0.7)
