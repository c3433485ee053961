"""Chooses some clips for coverage, the others for disagreement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from avsl.labels.strategies.coverage import CoverageConfig, coverage
from avsl.labels.strategies.disagreement import DisagreementConfig, disagreement
from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig


class HybridConfig(StrategyConfig):
    """Settings of the mixture.

    Attributes:
        explore: share of a round that `coverage` chooses.
        coverage: its settings.
        disagreement: the other's settings.
    """

    ASKS_MODEL = True

    explore: float = Field(0.5, ge=0, le=1)
    coverage: CoverageConfig = CoverageConfig()
    disagreement: DisagreementConfig = DisagreementConfig()


def hybrid(pool: Pool, settings: HybridConfig, rng: np.random.Generator) -> Iterator[Choice]:
    """Alternate both strategies on one pool; a clip's score is that of the strategy that chose it."""
    unlike = coverage(pool, settings.coverage, rng)
    doubted = disagreement(pool, settings.disagreement, rng)
    due = 0.0
    while pool.remaining.any():
        due += settings.explore
        if due >= 1 - 1e-9:
            due -= 1
            yield next(unlike)
        else:
            yield next(doubted)
