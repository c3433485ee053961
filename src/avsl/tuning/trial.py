"""A trial of a sweep: a training in a separate folder, on any node."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from ray import tune

from avsl.config.models import Config
from avsl.config.plugins import load_again
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.files import write_text
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.stages.prepare import load_data
from avsl.stages.train import train_and_export
from avsl.tracking.runs import Recorder, Unrecorded
from avsl.training.checkpoint import find_checkpoint
from avsl.training.loop import identity

# Seconds for which a trial waits for its lock: a worker that the driver has lost may still be writing.
_PATIENCE_S = 120


def run_trial(trial: Mapping[str, Any]) -> None:
    """Train, and report the node, every epoch and finally the outcome to Ray Tune.

    A failed training is an outcome, not an error of the worker, because Ray restarts a worker after an error.

    Args:
        trial: ``number``; ``config``, the whole configuration as JSON values, whose root is the trial's folder;
            ``prepared``, ``split`` and ``start``, the paths of the data and the start weights; ``plugins``, see
            :func:`avsl.config.plugins.load_again`; ``origin``, see :func:`avsl.stages.train.train_and_export`.
    """
    load_again(trial["plugins"])
    config = Config.read(trial["config"], "")
    started = time.monotonic()
    tune.report({"node": ray.get_runtime_context().get_node_id()})
    try:
        score = _train(trial, config, _Reports())
    except Exception as error:
        write_text(config.root / "error.txt", traceback.format_exc())
        lines = str(error).strip().splitlines() or [""]
        tune.report({"outcome": "failed", "reason": f"{type(error).__name__}: {lines[0]}"})
    else:
        tune.report({"outcome": "complete", "score": score, "seconds": time.monotonic() - started})


def train_again(trial: Mapping[str, Any]) -> None:
    """Train a trial with another seed; arguments as of :func:`run_trial`. Its history lies in the training's folder."""
    load_again(trial["plugins"])
    _train(trial, Config.read(trial["config"], ""), Unrecorded())


def _train(trial: Mapping[str, Any], config: Config, recorder: Recorder) -> float:
    """Train from the trial's checkpoint if it has one, unless a lost worker has already completed the training."""
    prepared, split, start = (Path(trial[key]) for key in ("prepared", "split", "start"))
    layout = Layout.of(config)
    config.root.mkdir(parents=True, exist_ok=True)
    with FileLock(config.root / f"trial-{config.seed}.lock", timeout=_PATIENCE_S):
        links = {layout.prepared: prepared, layout.split: split, layout.start_of_seed: start}
        for link, target in links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(target)
        data_split = load_data(layout)[1]
        if not data_split.validation:
            raise DataError(f"{split}: no row has boxes, so no trial can be scored")
        data = _opened(prepared, data_split.data_hash)
        wanted = identity(config, data_split, layout.start)
        trained = RunRecord.find(layout.train)
        if trained is None or trained.identity != wanted:
            resume = find_checkpoint(layout.checkpoint, wanted) is not None
            train_and_export(config, data, data_split, recorder, trial["origin"], resume)
        found = RunRecord.load(layout.train).validation
        if found is None:
            raise DataError(f"{layout.train}: the model was trained without validation")
        return found.ciou


@lru_cache(maxsize=1)
def _opened(prepared: Path, content_hash: str) -> PreparedData:
    """Open the prepared set once for all trials of a worker, with its cached features."""
    return PreparedData.open(prepared)


class _Reports:
    """Reports every epoch to Ray Tune, which may stop the trial."""

    # The driver opens the MLflow runs.
    run_id = ""

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Report an epoch's metrics; those of the finished model are in the outcome."""
        if "val/ciou" in metrics:
            tune.report({"epoch": epoch, "ciou": metrics["val/ciou"], "metrics": json.dumps(dict(metrics))})

    def log_folder(self, path: Path) -> None:
        """Do nothing; the folder stays in place."""
