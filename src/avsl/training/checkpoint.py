"""Checkpoints: written atomically, and resumed only by the same training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from avsl.files import whole_file
from avsl.training.nonfinite import NonFiniteGuard

log = logging.getLogger(__name__)


class StampedCheckpoint(ModelCheckpoint):
    """Writes one checkpoint atomically, by steps and by time; never at the last step of an epoch, before validation.

    Args:
        path: path of the checkpoint.
        every_steps: number of steps between checkpoints.
        every_s: longest time between checkpoints, in seconds.
        stamp: identity and MLflow run, which decide whether the checkpoint is resumed.
        guard: checks all steps before a checkpoint is written.

    Attributes:
        written: steps of the last checkpoint; None if this training has none.
    """

    def __init__(
        self, path: Path, every_steps: int, every_s: float, stamp: Mapping[str, str], guard: NonFiniteGuard
    ) -> None:
        super().__init__(
            dirpath=path.parent, filename=path.stem, every_n_train_steps=every_steps, enable_version_counter=False
        )
        # The base class's constructor accepts steps or a time; its triggers accept both.
        self._train_time_interval = timedelta(seconds=every_s)
        self.written: int | None = None
        self._stamp = dict(stamp)
        self._guard = guard

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is due.

        Raises:
            NonFiniteError: a step was not finite.
        """
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the stamp to the checkpoint."""
        checkpoint["stamp"] = self._stamp

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the number of steps of the checkpoint."""
        self.written = int(checkpoint["global_step"])

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state; the base class's would hold paths of files."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state."""

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        self._guard.check()
        if trainer.is_global_zero:
            with whole_file(Path(filepath)) as part:
                trainer.save_checkpoint(part)
        else:
            # All processes take part in a checkpoint; the first one writes it.
            trainer.save_checkpoint(filepath)
        self._last_global_step_saved = self.written = trainer.global_step


def find_checkpoint(path: Path, wanted: str) -> str | None:
    """The MLflow run of the checkpoint at ``path`` if its configuration, split and code are the same; else None.

    Other and damaged checkpoints are ignored with a log message.
    """
    if not path.is_file():
        return None
    try:
        stamp = torch.load(path, weights_only=True, mmap=True)["stamp"]
    except Exception as error:  # a damaged file can raise any error; training starts again
        log.warning("%s cannot be read (%s): training starts again", path, error)
        return None
    if stamp["identity"] != wanted:
        log.info("%s was made with another configuration, split or code: training starts again", path)
        return None
    log.info("continuing from %s", path)
    return str(stamp["run_id"])
