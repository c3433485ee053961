"""Chooses clips that differ from the labeled ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig, draw_highest


class CoverageConfig(StrategyConfig):
    """How the next clip is found.

    Attributes:
        method: ``kmeans++`` draws it with a chance that grows with the squared distance to the nearest labeled clip
            (Arthur and Vassilvitskii, SODA 2007); ``k-center`` takes the farthest (Sener and Savarese, ICLR 2018, arXiv
            1708.00489), outliers first.
    """

    ASKS_MODEL = True

    method: Literal["kmeans++", "k-center"] = "kmeans++"


def coverage(pool: Pool, settings: CoverageConfig, rng: np.random.Generator) -> Iterator[Choice]:
    """Spread the labels over the model's audio-visual embeddings; the score is the distance to the nearest label."""
    while pool.remaining.any():
        far = np.where(pool.remaining, pool.distance, 0.0)
        chances = far**2
        if settings.method == "k-center" or not chances.any():
            index = draw_highest(far, pool, rng)
        else:
            index = int(rng.choice(len(far), p=chances / chances.sum()))
        score = float(far[index])
        pool.take(index)
        yield Choice(index, f"{score:.2f} from the nearest labeled clip", score)
