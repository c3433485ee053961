"""A parent run for each cell (framework, objective, label ratio) over the runs of its seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from avsl.tracking.runs import TrackedRun
from avsl.tracking.store import Store, TrackingError, one_sentence

if TYPE_CHECKING:
    from mlflow.entities import Run

# Tags of a parent run.
CELL = "cell"
_CONFIGURATION = "configuration"

_PARENT = "mlflow.parentRunId"

# Parameters that depend only on a training's seed.
_OF_SEED = ("seed", "split.seed")

# Tags that a parent takes from its children if all have the same value.
_SHARED = ("framework", "objective", "label_ratio", "data_hash", "git_commit")


def link_seeds(store: Store, name: str, run_ids: Sequence[str]) -> str:
    """Give the runs of a cell's seeds a parent run with their common parameters and mean metrics.

    The parent has the parameters with the same value in all runs, so that parents compare methods. For each metric of
    all runs it has the mean of the last values under the metric's name and the standard deviation under ``sd/`` and the
    name, and it has the number of runs as ``seeds``. A further call, for example after a new seed, updates the parent;
    runs of another configuration get another parent.

    Args:
        store: the store of the runs.
        name: name of the cell in lists of runs.
        run_ids: ids of the seeds' runs in one experiment, at least one.

    Returns:
        The parent's id.

    Raises:
        TrackingError: a run is unknown, the runs are in several experiments, or the store fails.
    """
    client = store.client
    with one_sentence(f"the runs of '{name}' cannot be read in {store.uri}"):
        runs = [client.get_run(run_id) for run_id in run_ids]
    experiments = {run.info.experiment_id for run in runs}
    if len(experiments) != 1:
        raise TrackingError(f"the runs of '{name}' must be of one experiment, and are of {len(experiments)}")
    params = _common([run.data.params for run in runs])
    params = {key: value for key, value in params.items() if key not in _OF_SEED}
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
    with one_sentence(f"the runs of '{name}' cannot be joined in {store.uri}"):
        query = f"tags.{CELL} = '{name}' and tags.{_CONFIGURATION} = '{digest}'"
        found = client.search_runs(list(experiments), query, max_results=1)
        if found:
            parent_id = str(found[0].info.run_id)
        else:
            tags = {CELL: name, _CONFIGURATION: digest}
            parent_id = str(client.create_run(experiments.pop(), None, tags, name).info.run_id)
        for run in runs:
            client.set_tag(run.info.run_id, _PARENT, parent_id)
    with TrackedRun(store, parent_id, resumed=False) as parent:
        shared = _common([run.data.tags for run in runs])
        parent.set_tags({key: shared[key] for key in _SHARED if key in shared})
        if not found:
            # Under this name it is the first parameter in MLflow's comparison in which runs of a label ratio differ.
            parent.log_params({key: params[key] for key in ("framework",) if key in params})
            parent.log_params(params)
        parent.log_epoch(_means(runs), 0)
    return parent_id


def tag_parent(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of the parent of a seed's run, if it has one.

    Args:
        store: the store of the runs.
        run_id: id of the run of any seed.
        tags: values by name; previous values are replaced.

    Raises:
        TrackingError: the run is unknown, or the store fails.
    """
    with one_sentence(f"the parent of run '{run_id}' cannot be looked for in {store.uri}"):
        parent_id = store.client.get_run(run_id).data.tags.get(_PARENT)
    if parent_id:
        TrackedRun(store, parent_id, resumed=False).set_tags(tags)


def _common(of_runs: Sequence[dict[str, str]]) -> dict[str, str]:
    """The entries with the same value in all mappings."""
    first, *others = of_runs
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _means(runs: Sequence[Run]) -> dict[str, float]:
    """The mean and, for several runs, the standard deviation of each metric of all runs except system metrics."""
    found: dict[str, float] = {}
    # MLflow's comparison of runs opens with the metric that was recorded first.
    for key in sorted(runs[0].data.metrics, key=lambda key: (key != "test/ciou", key)):
        values = [run.data.metrics.get(key) for run in runs]
        known = [value for value in values if value is not None and isfinite(value)]
        if key.startswith("system/") or len(known) < len(runs):
            continue
        found[key] = fmean(known)
        if len(known) > 1:
            found[f"sd/{key}"] = stdev(known)
    return found | {"seeds": len(runs)}
