"""Chooses clips uniformly at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig


class RandomConfig(StrategyConfig):
    """Has no settings."""


def at_random(pool: Pool, _: RandomConfig, rng: np.random.Generator) -> Iterator[Choice]:
    """Draw the candidates in random order; the score is the share of them that were left at the draw."""
    order = rng.permutation(len(pool.labels)).tolist()
    for k, index in enumerate(order):
        pool.take(index)
        yield Choice(index, "drawn at random", 1 - k / len(order))
