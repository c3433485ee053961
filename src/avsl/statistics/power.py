"""How many more seeds or test samples would tell two methods apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from avsl.statistics.intervals import Summary

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_SEEDS = 1000
_MOST_TIMES = 1000


@dataclass(frozen=True)
class Needed:
    """What would tell a difference of the size found, the other number as it is.

    Attributes:
        more_seeds: further seeds; None where no number up to 1000 would do, or a single seed says nothing of others.
        times_recordings: by how many times the test recordings must grow, at least 1; None where no factor up to 1000
            would do.
    """

    more_seeds: int | None
    times_recordings: float | None


def plan(difference: Summary, level: float = 0.95, *, power: float = 0.8, pairs: int = 1) -> Needed:
    """Seeds or recordings with which a difference of the size of the mean would be detected with probability ``power``.

    Args:
        difference: of two methods, from `avsl.statistics.paired.compare_pairs`.
        level: of the verdict.
        power: chance of telling the difference, if it is real and of this size.
        pairs: number of pairs that are compared; the smallest p-value of them must pass.

    Raises:
        ValueError: ``level`` or ``power`` is not between 0 and 1, or there is no pair.
    """
    if not (0 < level < 1 and 0 < power < 1 and pairs >= 1):
        raise ValueError(f"level and power must be between 0 and 1 and pairs at least 1, got {level}, {power}, {pairs}")
    found = difference.variances

    def detectable(n_seeds: NDArray[np.int64] | int, n_recordings: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        error, freedom = found.standard_error(n_seeds, n_recordings)
        limit = stats.t.ppf(1 - (1 - level) / (2 * pairs), freedom) + stats.t.ppf(power, freedom)
        return np.asarray(abs(difference.mean) > error * limit)

    more_seeds = None
    if found.n_seeds > 1:
        seeds = np.arange(found.n_seeds, _MOST_SEEDS + 1)
        enough = np.flatnonzero(detectable(seeds, found.n_recordings))
        more_seeds = int(enough[0]) if len(enough) else None
    times = np.geomspace(1, _MOST_TIMES, 1 + 20 * 30)
    enough = np.flatnonzero(detectable(found.n_seeds, np.ceil(times * found.n_recordings).astype(np.int64)))
    return Needed(more_seeds, float(times[enough[0]]) if len(enough) else None)
