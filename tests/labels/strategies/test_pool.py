"""What strategies choose from."""

from __future__ import annotations

import numpy as np
import pytest

from avsl.labels.strategies.pool import Perception, Pool
from avsl.schema import ConfigError


def _pool(points: list[list[float]], known: list[list[float]], agreement: list[float] | None = None) -> Pool:
    agreed = None if agreement is None else np.array(agreement, np.float32)
    seen = Perception(np.array(points, np.float32).reshape(-1, 2), agreed)
    before = Perception(np.array(known, np.float32).reshape(-1, 2), None)
    return Pool([""] * len(points), {}, (seen, before))


def test_distances_are_to_the_nearest_label_or_choice() -> None:
    """Half the Euclidean distance of unit vectors."""
    pool = _pool([[1, 0], [0, 1], [-1, 0]], [[1, 0]])
    np.testing.assert_allclose(pool.distance, [0, 0.5**0.5, 1])
    pool.take(2)
    np.testing.assert_allclose(pool.distance, [0, 0.5**0.5, 0])
    assert pool.remaining.tolist() == [True, True, False]


def test_without_labels_every_distance_is_one() -> None:
    """Until a candidate is taken, also where nobody has asked for a distance before."""
    assert _pool([[1, 0], [0, 1]], []).distance.tolist() == [1, 1]
    pool = _pool([[1, 0], [0, 1]], [])
    pool.take(0)
    np.testing.assert_allclose(pool.distance, [0, 0.5**0.5])


def test_disagreement_is_one_less_agreement() -> None:
    """It needs two localizers, and a model at all."""
    np.testing.assert_allclose(_pool([[1, 0], [0, 1]], [], [0.25, 1]).disagreement, [0.75, 0])
    with pytest.raises(ConfigError, match="two localizers"):
        _ = _pool([[1, 0]], []).disagreement
    with pytest.raises(ConfigError, match="--model"):
        _ = Pool([""], {}, None).distance
