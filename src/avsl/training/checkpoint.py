"""Checkpoints: whole or absent, and continued only by the training they belong to."""

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
    """Writes one checkpoint atomically, by steps and by time, never at an epoch's last step: validation is due there.

    Args:
        path: of the checkpoint.
        every_steps: written after steps whose number it divides.
        every_s: seconds after which one is written all the same.
        stamp: what the checkpoint must carry to be continued (identity, MLflow run).
        guard: has a say before anything is written.

    Attributes:
        written: steps that the checkpoint holds; None where there is none of this training.
    """

    def __init__(
        self, path: Path, every_steps: int, every_s: float, stamp: Mapping[str, str], guard: NonFiniteGuard
    ) -> None:
        super().__init__(
            dirpath=path.parent, filename=path.stem, every_n_train_steps=every_steps, enable_version_counter=False
        )
        # Its constructor takes steps or a time; its triggers take both.
        self._train_time_interval = timedelta(seconds=every_s)
        self.written: int | None = None
        self._stamp = dict(stamp)
        self._guard = guard

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write when due.

        Raises:
            NonFiniteError: a step was not finite.
        """
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stamp it."""
        checkpoint["stamp"] = self._stamp

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how many steps the checkpoint holds."""
        self.written = int(checkpoint["global_step"])

    def state_dict(self) -> dict[str, Any]:
        """Nothing: which file was written last is no part of a training's state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        self._guard.check()
        if trainer.is_global_zero:
            with whole_file(Path(filepath)) as part:
                trainer.save_checkpoint(part)
        else:
            # Of several processes the first one writes, and all take part.
            trainer.save_checkpoint(filepath)
        self._last_global_step_saved = self.written = trainer.global_step


def find_checkpoint(path: Path, wanted: str) -> str | None:
    """The MLflow run of the checkpoint at ``path`` if it belongs to the same configuration, split and code.

    A checkpoint of anything else is left aside and said so: it is never continued.
    """
    if not path.is_file():
        return None
    try:
        stamp = torch.load(path, weights_only=True, mmap=True)["stamp"]
    except Exception as error:  # whatever a damaged file raises: it can only cost time
        log.warning("%s cannot be read (%s): training starts again", path, error)
        return None
    if stamp["identity"] != wanted:
        log.info("%s was made with another configuration, split or code: training starts again", path)
        return None
    log.info("continuing from %s", path)
    return str(stamp["run_id"])
