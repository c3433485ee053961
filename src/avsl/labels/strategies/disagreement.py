"""Chooses clips on which DMT's teachers or XPL's peers disagree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig, draw_highest


class DisagreementConfig(StrategyConfig):
    """Settings of the choice by disagreement.

    Attributes:
        diversity: exponent of the distance to the nearest labeled clip: 0 ignores it, and a round may then hold the
            same scene many times.
    """

    ASKS_MODEL = True

    diversity: float = Field(1.0, ge=0, le=10)


def disagreement(pool: Pool, settings: DisagreementConfig, rng: np.random.Generator) -> Iterator[Choice]:
    """Take the clip with the highest (1 − soft IoU) · distance^diversity; the score is 1 − soft IoU."""
    doubts = pool.disagreement
    while pool.remaining.any():
        index = draw_highest(doubts * pool.distance**settings.diversity, pool, rng)
        pool.take(index)
        yield Choice(index, f"the two localizers agree by {1 - doubts[index]:.2f}", float(doubts[index]))
