"""The parent run of a cell's seeds, on a real MLflow store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fixtures.messages import facts

from avsl.tracking.cells import link_seeds, tag_parent
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingError


def _train(store: Store, data: str, tags: RunTags, seed: int, **settings: object) -> str:
    params = {"framework": {"name": "dmt", "dmt": {"delta": 0.4}}, "seed": seed, "split": {"seed": seed}} | settings
    with start_or_resume_run(store, data, f"seed {seed}", replace(tags, seed=seed), params) as run:
        run.log_epoch({"val/ciou": 0.1, "system/cpu": 1.0}, 1)
        run.log_epoch({"val/ciou": 0.5 + seed / 10, "test/ciou": 0.25 * seed}, 2)
        run.log_epoch({f"only/{seed}": 1.0}, 2)
    return run.run_id


def test_a_parent_has_means_and_what_its_seeds_share(store: Store, data: str, tags: RunTags) -> None:
    """Each seed is its child; a seed that is added changes the means, not the number of parents."""
    runs = [_train(store, data, tags, seed) for seed in (0, 1)]
    parent = link_seeds(store, "dmt-ezvsl 0.03", runs)
    found = store.client.get_run(parent)
    assert (found.info.run_name, found.info.status) == ("dmt-ezvsl 0.03", "FINISHED")
    assert found.data.params == {"framework": "dmt", "framework.name": "dmt", "framework.dmt.delta": "0.4"}
    assert found.data.metrics == pytest.approx(
        {"seeds": 2, "val/ciou": 0.55, "sd/val/ciou": 0.1 / 2**0.5, "test/ciou": 0.125, "sd/test/ciou": 0.25 / 2**0.5}
    )
    assert (found.data.tags["framework"], found.data.tags["label_ratio"]) == ("dmt", "0.03")
    assert "seed" not in found.data.tags
    query = f"tags.mlflow.parentRunId = '{parent}'"

    def children() -> set[str]:
        return {run.info.run_id for run in store.client.search_runs([found.info.experiment_id], query)}

    assert children() == set(runs)
    runs.append(_train(store, data, tags, 2))
    assert link_seeds(store, "dmt-ezvsl 0.03", runs) == parent
    metrics = store.client.get_run(parent).data.metrics
    assert metrics["seeds"] == 3
    assert metrics["test/ciou"] == pytest.approx(0.25)
    assert children() == set(runs)


def test_another_configuration_has_another_parent(store: Store, data: str, tags: RunTags) -> None:
    """The earlier one stays with its seeds; a single seed has no standard deviation."""
    first, other = _train(store, data, tags, 0), _train(store, data, tags, 0, trainer={"epochs": 3})
    before, after = (link_seeds(store, "dmt-ezvsl 0.03", [run]) for run in (first, other))
    assert before != after
    assert store.client.get_run(first).data.tags["mlflow.parentRunId"] == before
    assert store.client.get_run(after).data.params["trainer.epochs"] == "3"
    assert not any(key.startswith("sd/") for key in store.client.get_run(after).data.metrics)


def test_runs_that_have_no_common_parent_are_refused(store: Store, data: str, tags: RunTags) -> None:
    """An unknown run, and runs of two data sets."""
    run, elsewhere = _train(store, data, tags, 0), _train(store, f"{data}-other", tags, 0)
    with pytest.raises(TrackingError, match=facts("'cell' 2")):
        link_seeds(store, "cell", [run, elsewhere])
    with pytest.raises(TrackingError, match=facts("'cell' nowhere")):
        link_seeds(store, "cell", ["nowhere"])


def test_a_tag_goes_to_the_parent_of_a_seed(store: Store, data: str, tags: RunTags) -> None:
    """And replaces what it was; a run without a parent keeps its own tags."""
    run = _train(store, data, tags, 0)
    tag_parent(store, run, {"verdict/xpl-ezvsl": "lost"})
    parent = link_seeds(store, "dmt-ezvsl 0.03", [run])
    for verdict in ("better, +1.0", "not told apart, +0.2"):
        tag_parent(store, run, {"verdict/xpl-ezvsl": verdict})
        assert store.client.get_run(parent).data.tags["verdict/xpl-ezvsl"] == verdict
    assert "verdict/xpl-ezvsl" not in store.client.get_run(run).data.tags
    with pytest.raises(TrackingError, match=facts("nowhere")):
        tag_parent(store, "nowhere", {})
