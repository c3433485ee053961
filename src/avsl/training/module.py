"""The LightningModule of all frameworks: steps, optimizer and measured values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torchmetrics import SumMetric

from avsl.build import make_framework
from avsl.config.models import Config
from avsl.data.loading import Rows, TrainingRows
from avsl.data.transforms import make_views, plain_view
from avsl.distributed import follow_first
from avsl.functional.seeds import derive_seed
from avsl.metrics import ThresholdSweep
from avsl.models import LocalizerEnsemble
from avsl.training.averaging import ExportedAverages
from avsl.training.errors import TrainingError
from avsl.training.means import RunningMeans, Weighted, measure_step
from avsl.training.optimizer import clip_gradients, make_optimizer
from avsl.types import Framework


class SemiModule(lightning.LightningModule):
    """Trains a framework.

    The seed of a step's augmentation and dropout is derived from the training's seed, the step and the process's rank,
    so that a resumed training is identical to an uninterrupted one.

    Args:
        config: the run's configuration.
        total_steps: steps of the training.
        start: folder of the students' start weights; None for the model's initial weights.

    Attributes:
        step: number of the current step.
        finite: () bool, whether the step's loss and gradient are finite; set by `NonFiniteGuard`.
        skipped: number of steps of the epoch that were not finite.
    """

    def __init__(self, config: Config, total_steps: int, start: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.framework: Framework = make_framework(config, total_steps, start)
        settings = config.trainer.in_steps(total_steps)
        self.exported = ExportedAverages(self.framework.eval_models(), settings.average_half_life)
        self.sweep = ThresholdSweep()
        self.means = RunningMeans()
        self.skipped = SumMetric(nan_strategy="disable", sync_on_compute=False)
        self.skipped.persistent(True)
        self.step = 0
        self.finite = torch.tensor(True)
        self._measured: dict[str, Weighted] = {}

    def training_step(self, rows: TrainingRows, batch_idx: int) -> torch.Tensor:
        """Augment the rows and compute the framework's loss."""
        self.step = rows.step
        seed = derive_seed(self.config.seed, 2000, rows.step, *([self.global_rank] if self.global_rank else []))
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        n_strong, weak = self.framework.n_views, self.framework.needs_weak_view
        batch = make_views(
            rows.labeled, rows.unlabeled, self.config.augment, n_strong=n_strong, weak=weak, generator=generator
        )
        output = self.framework.training_step(batch, rows.step)
        self._measured = measure_step(output, batch, rows.hidden)
        return output.loss.total

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Clip each student's gradient; Lightning's clipping would refuse the fused optimizer."""
        if gradient_clip_val:
            clip_gradients(self, gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the optimizer's step and update all averages before a checkpoint can be written."""
        super().optimizer_step(*args, **kwargs)
        self.framework.after_step(self.step)
        self.exported.update()
        self.means.add(self._measured, self.finite)
        self.skipped.update(~self.finite)

    def on_validation_start(self) -> None:
        """Copy the first process's batch-norm statistics, in which processes differ, to all of them."""
        follow_first(self.buffers())

    def validation_step(self, rows: Rows, batch_idx: int) -> None:
        """Score the models that would be exported at every candidate threshold."""
        if rows.mask is None:
            raise TrainingError("validation samples need masks")
        self.sweep.update(self.ensemble()(plain_view(rows)), rows.mask, rows.recording)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch, which ends with its validation."""
        # MLflow's comparison of runs starts with the metric that was recorded first.
        self._log_epoch({"val/ciou": float(self.sweep.cross_fitted_rate()), "val/threshold": self.sweep.best()})

    def on_train_epoch_end(self) -> None:
        """Log an epoch that has no validation."""
        if not self.trainer.val_dataloaders:
            self._log_epoch({})

    def _log_epoch(self, metrics: dict[str, float]) -> None:
        metrics |= self.means.compute()
        if self.config.trainer.non_finite == "skip":
            metrics["train/skipped"] = float(self.skipped.compute())
        metrics["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.sweep.reset()
        self.skipped.reset()
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.current_epoch + 1)

    def ensemble(self) -> LocalizerEnsemble:
        """The ensemble to validate and export."""
        return LocalizerEnsemble(self.exported.models())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """See `make_optimizer`."""
        return make_optimizer(self.framework, self.config.trainer, self.total_steps)
