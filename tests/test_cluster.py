"""Ray's start, with its failures as one sentence; clusters with trials and seeds are in tuning and stages."""

from __future__ import annotations

import pytest
import ray
from tests.fixtures.messages import facts

from avsl.cluster import ClusterError, cluster


def test_a_ray_that_does_not_start_in_time_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception of several lines on a machine that is too busy."""

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nSome of the processes failed.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match=facts("Ray machine timed out startup")), cluster("", {"CPU": 1}, "a task"):
        pass
