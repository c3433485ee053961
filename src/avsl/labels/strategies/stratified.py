"""Chooses clips such that each class gets its share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np

from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig, draw_highest
from avsl.schema import ConfigError


class StratifiedConfig(StrategyConfig):
    """Settings of the shares of classes.

    Attributes:
        balance: ``proportional`` to its clips, or ``equal`` for every class.
    """

    balance: Literal["proportional", "equal"] = "proportional"


def stratified(pool: Pool, settings: StratifiedConfig, rng: np.random.Generator) -> Iterator[Choice]:
    """Take a random clip of the class that lies furthest behind its share; the score is how many labels it lacks.

    Raises:
        ConfigError: the candidates have no classes.
    """
    if not any(pool.labels):
        raise ConfigError("stratified needs classes: put the clips into folders that are named after them")
    sizes = Counter(pool.labels)
    sizes.update(pool.counts)
    equal = settings.balance == "equal"
    shares = {label: 1 / len(sizes) if equal else size / sizes.total() for label, size in sizes.items()}
    while pool.remaining.any():
        total = sum(pool.counts.values()) + 1
        lack = {label: share * total - pool.counts.get(label, 0) for label, share in shares.items()}
        index = draw_highest(np.array([lack[label] for label in pool.labels]), pool, rng)
        label = pool.labels[index]
        pool.take(index)
        yield Choice(index, f"class '{label}' has {pool.counts[label] - 1} labels", lack[label])
