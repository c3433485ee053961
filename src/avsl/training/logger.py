"""Logging of a training's epochs."""

from __future__ import annotations

import csv
import logging
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from avsl.files import whole_file
from avsl.tracking.runs import Recorder

log = logging.getLogger(__name__)

_SHOWN = ("train/loss", "val/ciou", "pseudo/acceptance", "pseudo/iou")


class EpochLogger(Logger, Callback):
    """Records the metrics of each epoch and logs a line with the remaining time.

    As a callback it stores its history in the checkpoint, so that a resumed training has the curves from the start.

    Args:
        run: records every epoch; None in all processes but the first.
        epochs: number of epochs of the training.

    Attributes:
        history: metrics of each epoch, with its number from 1 as ``epoch``.
    """

    def __init__(self, run: Recorder | None, epochs: int) -> None:
        super().__init__()
        self._run = run
        self._epochs = epochs
        self._started = time.perf_counter()
        self._elapsed = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def name(self) -> str:
        """Of the MLflow run."""
        return "" if self._run is None else self._run.run_id

    @property
    def version(self) -> str:
        """Empty, because a run has no version."""
        return ""

    @property
    def seconds(self) -> float:
        """Training time so far, with that of interrupted sessions up to their checkpoints."""
        return self._elapsed + time.perf_counter() - self._started

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the run already has the configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record the metrics of epoch ``step``, from 1."""
        if step is None or self._run is None:
            return
        self.history.append({"epoch": float(step), **metrics})
        self._run.log_epoch(metrics, step)
        left = self.seconds / step * (self._epochs - step)
        shown = " · ".join(f"{key} {metrics[key]:.3f}" for key in sorted(metrics) if key in _SHOWN)
        log.info("epoch %d/%d · %s · %.0f s, %.0f s left", step, self._epochs, shown, self.seconds, left)

    def state_dict(self) -> dict[str, Any]:
        """The history and the time, for the checkpoint."""
        return {"history": self.history, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a checkpoint."""
        self.history = list(state_dict["history"])
        self._elapsed = float(state_dict["seconds"])


def write_history(path: Path, history: Iterable[dict[str, float]]) -> None:
    """Write the epochs' metrics as CSV; a missing metric is empty."""
    lines = list(history)
    keys = list(dict.fromkeys(key for line in lines for key in line))
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
