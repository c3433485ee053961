"""The learning-rate schedule."""

from __future__ import annotations

import pytest

from avsl.training.optimizer import learning_rate_factor


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    """Linear over the warm-up; half the peak in the middle of what follows."""
    assert [learning_rate_factor(step, 4, 104) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_factor(54, 4, 104) == pytest.approx(0.5)
    after = [learning_rate_factor(step, 4, 104) for step in range(4, 105)]
    assert after == sorted(after, reverse=True)
    assert after[-1] == 0
    assert learning_rate_factor(0, 1, 1) == 1
