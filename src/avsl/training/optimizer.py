"""The optimizer of a training, its learning-rate schedule and its gradient clipping."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from avsl.config.models import TrainerConfig
from avsl.frameworks.branch import Branch
from avsl.types import Framework


def make_optimizer(framework: Framework, trainer: TrainerConfig, total_steps: int) -> OptimizerLRSchedulerConfig:
    """AdamW with `learning_rate_factor`, updated at every step."""
    optimizer = torch.optim.AdamW(
        [{**group, "lr": trainer.learning_rate * group["lr_scale"]} for group in framework.param_groups()],
        lr=trainer.learning_rate,
        weight_decay=trainer.weight_decay,
        fused=True,
    )
    warmup = max(1, round(trainer.warmup_share * total_steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, warmup, total_steps, trainer.final_lr_share)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_rate_factor(step: int, warmup: int, total: int, final: float = 0.0) -> float:
    """The share of the peak learning rate: a linear warm-up to 1 over ``warmup`` steps, then a cosine to ``final``."""
    if step < warmup:
        return (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return final + (1 - final) * cosine


def clip_gradients(model: nn.Module, max_norm: float) -> None:
    """Clip each student's gradient separately; a norm over all of them would couple independent students."""
    for student in model.modules():
        if isinstance(student, Branch):
            nn.utils.clip_grad_norm_(student.parameters(), max_norm, foreach=True)
