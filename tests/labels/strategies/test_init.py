"""The order in which each strategy chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from avsl.labels.strategies import STRATEGIES
from avsl.labels.strategies.pool import Choice, Perception, Pool

_FLOATS = np.float32


def _pool(n: int, labels: Sequence[str] = (), counts: dict[str, int] | None = None) -> Pool:
    """Candidates on a half circle, in order of their angle, the first one at a known clip; doubts fall with it."""
    angles = np.linspace(0, np.pi, n)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(_FLOATS)
    seen = Perception(points, np.linspace(0, 0.9, n).astype(_FLOATS))
    return Pool(labels or [""] * n, counts or {}, (seen, Perception(points[:1], None)))


def _choose(name: str, pool: Pool, seed: int = 0, **settings: object) -> list[Choice]:
    choose, model = STRATEGIES[name]
    return list(choose(pool, model.read(settings, name), np.random.default_rng(seed)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_candidate_is_chosen_once_and_repeatably(name: str) -> None:
    """The order depends on the seed alone, and each choice is taken before the next."""
    orders = [[c.index for c in _choose(name, _pool(9, ["x", "y", "y"] * 3), seed)] for seed in (0, 0)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(9))
    assert all(choice.why for choice in _choose(name, _pool(9, ["x"] * 9)))


def test_random_differs_by_seed() -> None:
    """And is no order of the candidates."""
    orders = {tuple(c.index for c in _choose("random", _pool(9), seed)) for seed in range(5)}
    assert len(orders) == 5
    assert tuple(range(9)) not in orders


@pytest.mark.parametrize(("balance", "expected"), [("equal", {"a": 2, "b": 2}), ("proportional", {"a": 3, "b": 1})])
def test_stratified_gives_classes_their_share(balance: str, expected: dict[str, int]) -> None:
    """Nine clips in twelve are of class a; the first four choices."""
    chosen = _choose("stratified", _pool(12, ["a"] * 9 + ["b"] * 3), balance=balance)
    assert Counter("a" if c.index < 9 else "b" for c in chosen[:4]) == expected


def test_stratified_counts_the_labels_there_are() -> None:
    """A class that is ahead waits."""
    chosen = _choose("stratified", _pool(6, ["a"] * 3 + ["b"] * 3, {"a": 2}), balance="equal")
    assert [c.index >= 3 for c in chosen[:2]] == [True, True]


def test_coverage_goes_where_no_label_is() -> None:
    """k-center takes the farthest point, then the one between; k-means++ never one that has a label."""
    assert [c.index for c in _choose("coverage", _pool(9), method="k-center")][:2] == [8, 4]
    firsts = Counter(_choose("coverage", _pool(9), seed)[0].index for seed in range(40))
    assert 0 not in firsts
    assert len(firsts) > 2
    assert _choose("coverage", _pool(9), method="k-center")[0].score == pytest.approx(1)


def test_disagreement_weighs_doubt_and_distance() -> None:
    """By doubt alone the order is that of the doubts; with diversity the labeled scene comes last."""
    assert [c.index for c in _choose("disagreement", _pool(9), diversity=0)] == list(range(9))
    chosen = [c.index for c in _choose("disagreement", _pool(9), diversity=1)]
    doubts, distance = np.linspace(1, 0.1, 9), np.sin(np.linspace(0, np.pi, 9) / 2)
    assert chosen[0] == int((doubts * distance).argmax())
    assert 0 not in chosen[:5]


@pytest.mark.parametrize(("explore", "turns"), [(0.0, "ddddd"), (0.5, "dcdcd"), (1.0, "ccccc")])
def test_hybrid_takes_turns(explore: float, turns: str) -> None:
    """A turn of coverage names a distance, one of disagreement an agreement."""
    chosen = _choose("hybrid", _pool(9), explore=explore)[:5]
    assert "".join("c" if "labeled clip" in c.why else "d" for c in chosen) == turns
