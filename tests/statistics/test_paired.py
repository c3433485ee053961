"""Paired comparisons of made methods whose difference is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.messages import facts

from avsl.statistics import Pair, Summary, compare_pairs, holm, summarize_seeds, tied_groups
from avsl.statistics.intervals import Variances

Tables = dict[str, NDArray[np.float64]]


def trained(
    rng: np.random.Generator, rates: dict[str, float], *, n_seeds: int = 3, n: int = 200, spread: float = 0.03
) -> Tables:
    """Successes of methods on samples of which some are hard for all; each training is off by ``spread``."""
    ease = rng.uniform(-0.4, 0.4, n)
    found = {}
    for name, rate in rates.items():
        chance = rate + ease + rng.normal(0, spread, (n_seeds, 1))
        found[name] = (rng.uniform(size=(n_seeds, n)) < chance).astype(float)
    return found


def compare(tables: Tables, recordings: Sequence[int], permutations: int = 4999) -> list[Pair]:
    """The pairs of (S, N) tables, seeds numbered."""
    numbered = {name: dict(enumerate(table)) for name, table in tables.items()}
    return compare_pairs(numbered, recordings, permutations=permutations)


def test_equal_methods_are_hardly_ever_told_apart() -> None:
    """Of 150 studies of three equal methods, at most about 5 % call any of them better or worse."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(150):
        tables = trained(rng, {"a": 0.5, "b": 0.5, "c": 0.5})
        pairs = compare(tables, range(200), 99)
        wrong += any(pair.verdict != "not told apart" for pair in pairs)
    assert wrong / 150 <= 0.08


def test_trainings_that_vary_are_not_taken_for_methods_that_differ() -> None:
    """Where seeds differ more than methods, many recordings prove nothing; recordings alone would be fooled."""
    rng = np.random.default_rng(1)
    wrong = fooled = 0
    for _ in range(60):
        tables = trained(rng, {"a": 0.5, "b": 0.5}, n_seeds=3, n=2000, spread=0.1)
        wrong += compare(tables, range(2000), 99)[0].verdict != "not told apart"
        single = {name: table.mean(0, keepdims=True) for name, table in tables.items()}
        fooled += compare(single, range(2000), 99)[0].p_value <= 0.05
    assert wrong / 60 <= 0.12
    assert fooled / 60 > 0.5


def test_a_large_difference_is_told_with_its_sign() -> None:
    """Better one way round, worse the other; a third method equal to one of the two is tied."""
    tables = trained(np.random.default_rng(2), {"weak": 0.4, "strong": 0.65, "weak too": 0.4}, n_seeds=5, n=600)
    pairs = {(pair.first, pair.second): pair for pair in compare(tables, range(600))}
    assert list(pairs) == [("weak", "strong"), ("weak", "weak too"), ("strong", "weak too")]
    assert [pair.verdict for pair in pairs.values()] == ["worse", "not told apart", "better"]
    found = pairs["weak", "strong"]
    assert found.difference.mean == pytest.approx(float((tables["weak"] - tables["strong"]).mean()))
    assert found.difference.low < -0.25 < found.difference.high < 0
    assert found.p_value < 0.05


def test_pairing_is_used() -> None:
    """A small difference that every sample shares is told although samples vary far more; not when pairs are broken."""
    rng = np.random.default_rng(3)
    base = rng.uniform(0, 1, 300) + rng.normal(0, 0.1, (3, 1))
    other = base + 0.02 + rng.normal(0, 0.005, (3, 300))
    told = compare({"a": other, "b": base}, range(300))[0]
    assert told.verdict == "better"
    broken = compare({"a": rng.permuted(other, axis=1), "b": base}, range(300))[0]
    assert broken.verdict == "not told apart"
    assert broken.difference.mean == pytest.approx(told.difference.mean)


def test_what_a_seed_does_to_both_methods_does_not_widen_their_difference() -> None:
    """Seeds that move both by 20 points leave the interval of the difference as it is, not that of either method."""
    rng = np.random.default_rng(8)
    tables = trained(rng, {"a": 0.55, "b": 0.5}, n=400)
    moved = {name: table + np.array([[-0.2], [0.0], [0.2]]) for name, table in tables.items()}
    still, shaken = (compare(of, range(400))[0] for of in (tables, moved))
    assert shaken.difference.mean == pytest.approx(still.difference.mean)
    assert (shaken.difference.low, shaken.difference.high) == pytest.approx(
        (still.difference.low, still.difference.high)
    )
    assert shaken.p_value == pytest.approx(still.p_value)
    single, own = (summarize_seeds(of["a"], range(400)) for of in (tables, moved))
    assert own.high - own.low > 5 * (single.high - single.low)


def test_recordings_are_the_units() -> None:
    """The same scores in fewer recordings prove less."""
    rng = np.random.default_rng(4)
    base = rng.uniform(0, 1, (3, 60))
    tables = {"a": base + rng.normal(0.2, 1, 60), "b": base}
    copied = {name: np.repeat(table, 5, axis=1) for name, table in tables.items()}
    apart = compare(copied, range(300))[0]
    together = compare(copied, np.repeat(np.arange(60), 5).tolist())[0]
    assert together.p_value > apart.p_value
    assert together.p_value == pytest.approx(compare(tables, range(60))[0].p_value, abs=0.02)


def test_single_seeds_and_equal_scores_tell_nothing() -> None:
    """A difference of two trainings is not one of methods; no difference has a p-value of 1."""
    rng = np.random.default_rng(5)
    tables = trained(rng, {"a": 0.8, "b": 0.3}, n_seeds=1)
    (found,) = compare(tables, range(200))
    assert (found.verdict, found.p_value < 0.01) == ("no verdict", True)
    same = {"a": tables["a"].repeat(2, 0), "b": tables["a"].repeat(2, 0)}
    found = compare(same, range(200))[0]
    assert (found.p_value, found.verdict) == (1, "not told apart")
    (found,) = compare(same, [0] * 200)
    assert (found.p_value, found.verdict) == (1, "not told apart")
    with pytest.raises(ValueError, match=facts("200 9")):
        compare({"a": tables["a"], "b": tables["b"][:, :9]}, range(200))


def test_a_pair_is_compared_over_the_seeds_that_both_have() -> None:
    """A seed that one of them lacks changes nothing for their pair; without a common seed there is no pair."""
    tables = trained(np.random.default_rng(6), {"a": 0.7, "b": 0.5, "c": 0.5}, n_seeds=4)
    numbered = {name: dict(enumerate(table)) for name, table in tables.items()}
    numbered["b"] = {seed: numbered["b"][seed] for seed in (3, 1, 2)}
    numbered["c"] = {seed + 4: row for seed, row in numbered["c"].items()}
    (pair,) = compare_pairs(numbered, range(200))
    assert (pair.first, pair.second, list(pair.seeds)) == ("a", "b", [1, 2, 3])
    assert pair.difference == compare({"a": tables["a"][1:], "b": tables["b"][1:]}, range(200))[0].difference


def test_many_pairs_can_still_be_told() -> None:
    """The correction for 190 pairs is not out of the permutations' reach."""
    rates = {f"m{k}": 0.9 if k == 0 else 0.3 for k in range(20)}
    tables = trained(np.random.default_rng(7), rates, n_seeds=5, n=300)
    pairs = compare(tables, range(300), 99)
    assert {pair.verdict for pair in pairs if pair.first == "m0"} == {"better"}


def test_groups_hold_all_that_are_not_told_apart_from_one_another() -> None:
    """The largest ones; who stands between two groups is in both, who is told from all in none."""
    tied = {("a", "b"), ("b", "c"), ("c", "d"), ("b", "d")}
    nothing = Summary(0.0, 0.0, 0.0, 0.0, Variances(0.0, 0.0, 0.0, 2, 2))
    pairs = [
        Pair(*names, [0, 1], nothing, 0.5, "not told apart" if names in tied else "better")
        for names in combinations("abcde", 2)
    ]
    assert tied_groups(pairs) == [["a", "b"], ["b", "c", "d"]]
    assert tied_groups([]) == []


def test_holm_by_hand() -> None:
    """Steps down, never falls, ends at 1; one value is left alone."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]).tolist() == [1, 1]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []
