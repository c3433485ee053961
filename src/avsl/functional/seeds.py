"""Derivation of seeds."""

from __future__ import annotations

import numpy as np


def derive_seed(*numbers: int) -> int:
    """One seed from several numbers; unlike their sum it differs for (1, 2) and (2, 1).

    Examples:
        >>> derive_seed(1, 2) != derive_seed(2, 1)
        True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
