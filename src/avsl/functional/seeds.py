"""Seeds derived from seeds."""

from __future__ import annotations

import numpy as np


def derive_seed(*numbers: int) -> int:
    """One seed from several numbers, without the collisions of adding them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
