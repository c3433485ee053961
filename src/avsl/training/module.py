"""The one LightningModule: any framework's steps, the optimizer, and what is measured on the way."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import SumMetric

from avsl.build import make_framework
from avsl.config.models import Config
from avsl.data.loading import Rows, TrainingRows
from avsl.data.transforms import make_views, plain_view
from avsl.distributed import follow_first
from avsl.frameworks.branch import Branch
from avsl.functional.seeds import derive_seed
from avsl.metrics import ThresholdSweep
from avsl.models import LocalizerEnsemble
from avsl.training.errors import TrainingError
from avsl.training.means import RunningMeans, Weighted, pseudo_label_quality
from avsl.types import Framework


class SemiModule(lightning.LightningModule):
    """Trains a framework.

    All randomness of a step (augmentation, dropout) comes from the seed, the step's number and, of several processes
    that train together, the process's, so a resumed training takes the steps the uninterrupted one would have taken.

    Args:
        config: the run's configuration.
        total_steps: length of the training, and of all that is given as a share of it.

    Attributes:
        step: number of the present step.
        finite: () bool, whether its loss and gradient are finite, as `NonFiniteGuard` finds them.
        skipped: steps of the epoch that were not.
    """

    def __init__(self, config: Config, total_steps: int) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.framework: Framework = make_framework(config, total_steps)
        self.sweep = ThresholdSweep()
        self.means = RunningMeans()
        self.skipped = SumMetric(nan_strategy="disable", sync_on_compute=False)
        self.skipped.persistent(True)
        self.step = 0
        self.finite = torch.tensor(True)
        self._measured: dict[str, Weighted] = {}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move rows of training and validation."""
        return batch.to(device)

    def training_step(self, rows: TrainingRows, batch_idx: int) -> Tensor:
        """Augment the rows, compute the framework's loss and measure what is logged."""
        self.step = rows.step
        seed = derive_seed(self.config.seed, 2000, rows.step, *([self.global_rank] if self.global_rank else []))
        torch.manual_seed(seed)
        batch = make_views(
            rows.labeled,
            rows.unlabeled,
            self.config.augment,
            n_strong=self.framework.n_views,
            weak=self.framework.needs_weak_view,
            generator=torch.Generator(self.device).manual_seed(seed),
        )
        output = self.framework.training_step(batch, rows.step)
        loss = output.loss.total
        terms = {"loss": loss.detach(), **output.loss.parts}
        self._measured = {f"train/{name}": (value, torch.ones_like(value)) for name, value in terms.items()}
        if output.pseudo is not None and batch.unlabeled is not None and batch.unlabeled.weak is not None:
            self._measured |= pseudo_label_quality(output.pseudo, rows.hidden, batch.unlabeled.weak.geometry)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each student's own gradient: one norm for all would couple independent students.

        Lightning's own clipping refuses fused optimizers, which matters for float16 alone.
        """
        if gradient_clip_val:
            for student in self.modules():
                if isinstance(student, Branch):
                    torch.nn.utils.clip_grad_norm_(student.parameters(), gradient_clip_val, foreach=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step and what the framework does after it (EMA), before any checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.framework.after_step(self.step)
        self.means.add(self._measured, self.finite)
        self.skipped.update(~self.finite)

    def on_validation_start(self) -> None:
        """Give all processes the first one's batch-norm statistics, the only thing in which networks differ.

        Each validates its share of the rows.
        """
        follow_first(self.buffers())

    def validation_step(self, rows: Rows, batch_idx: int) -> None:
        """CIoU of the models that would be exported, at every candidate threshold; silent rows do not count."""
        if rows.mask is None:
            raise TrainingError("validation rows carry no masks")
        sounding = rows.mask.flatten(1).any(1)
        self.sweep.update(self.ensemble()(plain_view(rows))[sounding], rows.mask[sounding])

    def on_validation_epoch_end(self) -> None:
        """Log the epoch: validation is its last act."""
        # The headline first: MLflow's comparison of runs starts with the metric that was recorded first.
        metrics = {"val/ciou": float(self.sweep.compute().max()), "val/threshold": self.sweep.best()}
        metrics |= self.means.compute()
        if self.config.trainer.non_finite == "skip":
            metrics["train/skipped"] = float(self.skipped.compute())
        metrics["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.sweep.reset()
        self.skipped.reset()
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.current_epoch + 1)

    def ensemble(self) -> LocalizerEnsemble:
        """The models to validate and export, as one."""
        return LocalizerEnsemble(list(self.framework.eval_models()))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a linear warm-up and a cosine to zero, by the step."""
        trainer = self.config.trainer
        optimizer = torch.optim.AdamW(
            [{**group, "lr": trainer.learning_rate * group["lr_scale"]} for group in self.framework.param_groups()],
            lr=trainer.learning_rate,
            weight_decay=trainer.weight_decay,
            fused=True,
        )
        warmup = max(1, round(trainer.warmup_share * self.total_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.total_steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
