"""The one LightningModule: any framework's steps, the optimizer, and what is measured on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from avsl.build import make_framework
from avsl.config.models import Config
from avsl.data.loading import Rows, TrainingRows
from avsl.data.transforms import make_views, plain_view
from avsl.distributed import follow_first, gather
from avsl.errors import AvslError
from avsl.functional.geometry import warp
from avsl.functional.pseudo_labels import mask_iou, to_grid
from avsl.functional.seeds import derive_seed
from avsl.metrics import ThresholdSweep
from avsl.models import LocalizerEnsemble
from avsl.types import Framework, KeepsState, PseudoLabels


class TrainingError(AvslError):
    """A training that cannot go on; the message is one sentence."""


class NonFiniteError(TrainingError):
    """A loss or a gradient that is not finite, or a loss that has exploded.

    Attributes:
        step: the first one.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss or its gradient is not finite, or beyond trainer.loss_limit, in step {step}")
        self.step = step


class SemiModule(lightning.LightningModule):
    """Trains a framework.

    All randomness of a step (augmentation, dropout) comes from the seed, the step's number and, of several processes
    that train together, the process's, so a resumed training takes the steps the uninterrupted one would have taken.

    Whether a step's loss and gradient are finite is found where they are computed and read rarely, as reading makes a
    step wait for the device.

    Args:
        config: the run's configuration.
        total_steps: length of the learning-rate schedule.
    """

    # The first step that was not finite, -1 for none.
    _spoilt: Tensor

    def __init__(self, config: Config, total_steps: int) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.framework: Framework = make_framework(config)
        self.sweep = ThresholdSweep()
        self._step = 0
        # Sums over the epoch so far; tensors, as reading them would make every step wait for the device.
        self._sums: dict[str, Tensor] = {}
        self.register_buffer("_spoilt", torch.tensor(-1), persistent=False)
        self._finite = torch.tensor(True)
        # What the present step may change besides what the optimizer does, and how it was before.
        self._undone: tuple[list[tuple[Tensor, Tensor]], dict[str, Tensor]] | None = None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move rows of training and validation."""
        if isinstance(batch, Rows):
            return batch.to(device)
        return TrainingRows(
            batch.labeled.to(device),
            None if batch.unlabeled is None else batch.unlabeled.to(device),
            None if batch.hidden is None else batch.hidden.to(device),
            batch.step,
        )

    def training_step(self, rows: TrainingRows, batch_idx: int) -> Tensor:
        """Augment, ask the framework for its loss, remember what is logged."""
        self._step = rows.step
        if self.config.trainer.non_finite == "skip":
            # Statistics of the students, teachers, momentum encoders.
            kept = [t for t in self.state_dict(keep_vars=True).values() if not t.requires_grad]
            self._undone = [(t, t.clone()) for t in kept], dict(self._sums)
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
        sound = output.loss.total.detach().abs() <= self.config.trainer.loss_limit  # NaN is not
        # Processes that train together skip, or stop, together.
        self._finite = gather(sound.float().unsqueeze(0)).amin(0) > 0
        self._add({"loss": output.loss.total.detach(), **output.loss.parts}, "train/")
        if output.pseudo is not None and batch.unlabeled is not None and batch.unlabeled.weak is not None:
            self._measure(output.pseudo, rows.hidden, batch.unlabeled.weak.geometry)
        return output.loss.total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip here: Lightning's own refuses fused optimizers, which matters for float16 alone."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf, foreach=True)
        self._finite = self._finite & norm.isfinite()
        if self._undone is None:
            self._spoilt = torch.where(self._finite | (self._spoilt >= 0), self._spoilt, self._step)
        else:
            # A fused optimizer looks at this on the device and does nothing where it is 1.
            optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step and what the framework does after it (EMA), before any checkpoint is written.

        Where steps that are not finite are skipped, nothing has changed after one but their number.
        """
        super().optimizer_step(*args, **kwargs)
        self.framework.after_step(self._step)
        if self._undone is None:
            return
        tensors, sums = self._undone
        for tensor, before in tensors:
            tensor.copy_(torch.where(self._finite, tensor, before))
        # Such state lies with the host, which has to wait for the device here; no other framework's step does.
        if isinstance(self.framework, KeepsState) and not bool(self._finite):
            self.framework.undo()
        for key, value in self._sums.items():
            self._sums[key] = torch.where(self._finite, value, sums.get(key, torch.zeros_like(value)))
        skipped = (~self._finite).float()
        self._sums["skipped"] = sums["skipped"] + skipped if "skipped" in sums else skipped

    def check_finite(self) -> None:
        """Look whether the weights are still sound; reading that waits for the device.

        Raises:
            NonFiniteError: a step's loss or gradient was not finite, and steps are not skipped.
        """
        if (step := int(self._spoilt)) >= 0:
            raise NonFiniteError(step)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at once where there is no device to wait for."""
        if self.device.type == "cpu":
            self.check_finite()

    def on_validation_start(self) -> None:
        """Look at the epoch's steps: a network that they have spoilt cannot be validated.

        Of several processes each validates its share of the rows, and the first one's network, which is what is kept:
        batch-norm statistics are the only thing in which they differ.

        Raises:
            TrainingError: one was not finite, or all were skipped.
        """
        self.check_finite()
        skipped = self._sums.pop("skipped", None)
        self._sums = {key: gather(value.unsqueeze(0)).sum(0) for key, value in self._sums.items()}
        if skipped is not None:  # by all processes alike
            self._sums["skipped"] = skipped
        follow_first(self.buffers())
        if not float(self._sums["n:train/loss"]):
            raise TrainingError(f"no step was finite in the epoch that ended with step {self._step}")

    def validation_step(self, rows: Rows, batch_idx: int) -> None:
        """CIoU of the models that would be exported, at every candidate threshold; silent rows have no say."""
        if rows.mask is None:
            raise TrainingError("validation rows carry no masks")
        sounding = rows.mask.flatten(1).any(1)
        self.sweep.update(self.ensemble()(plain_view(rows))[sounding], rows.mask[sounding])

    def ensemble(self) -> LocalizerEnsemble:
        """The models to validate and export, as one."""
        return LocalizerEnsemble(list(self.framework.eval_models()))

    def epoch_metrics(self) -> dict[str, float]:
        """Means over the epoch that ends, and validation's figures; the sums start again."""
        sums = {key: float(value) for key, value in self._sums.items()}
        self._sums = {}
        means = {key: value / sums[f"n:{key}"] for key, value in sums.items() if sums.get(f"n:{key}")}
        if "px:hit" in sums:
            hit = sums["px:hit"]
            means["pseudo/precision"] = hit / max(sums["px:labeled"], 1.0)
            means["pseudo/recall"] = hit / max(sums["px:true"], 1.0)
            means["pseudo/iou"] = sums["px:iou"] / max(sums["px:accepted"], 1.0)
        if "skipped" in sums:
            means["train/skipped"] = sums["skipped"]
        # The headline first: MLflow's comparison of runs starts with the metric that was recorded first.
        validation = {"val/ciou": float(self.sweep.compute().max()), "val/threshold": self.sweep.best()}
        self.sweep.reset()
        return validation | means

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's sums, each process's own, so that a resumed epoch logs the same means."""
        checkpoint["sums"] = {key: gather(value.unsqueeze(0)) for key, value in self._sums.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the epoch's sums."""
        self._sums = {key: values[self.global_rank] for key, values in checkpoint["sums"].items()}

    def _add(self, values: Mapping[str, Tensor], prefix: str) -> None:
        for name, value in values.items():
            for key, amount in ((prefix + name, value), (f"n:{prefix}{name}", torch.ones_like(value))):
                self._sums[key] = self._sums[key] + amount if key in self._sums else amount

    @torch.no_grad()
    def _measure(self, pseudo: PseudoLabels, hidden: Tensor | None, geometry: Tensor) -> None:
        """Acceptance and agreement; against the hidden truth, the accepted labels' precision, recall and IoU."""
        accepted = pseudo.accepted.float()
        values = {"acceptance": accepted.mean()}
        if pseudo.agreement is not None:
            values["agreement"] = pseudo.agreement.mean()
        self._add(values, "pseudo/")
        if hidden is None:
            return
        size = (pseudo.mask.shape[-2], pseudo.mask.shape[-1])
        truth = (to_grid(warp(hidden.unsqueeze(1), geometry).squeeze(1), size) >= 0.5).float()
        kept = accepted[:, None, None]
        sums = {
            "hit": (pseudo.mask * truth * kept).sum(),
            "labeled": (pseudo.mask * kept).sum(),
            "true": (truth * kept).sum(),
            "iou": (mask_iou(pseudo.mask, truth) * accepted).sum(),
            "accepted": accepted.sum(),
        }
        for name, value in sums.items():
            self._sums[f"px:{name}"] = self._sums[f"px:{name}"] + value if f"px:{name}" in self._sums else value
