"""The optimizer of a training, its learning-rate schedule and its gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from avsl.config.models import TrainerConfig
from avsl.frameworks.branch import Branch
from avsl.models.encoding import Encoder
from avsl.types import Framework


def make_optimizer(framework: Framework, trainer: TrainerConfig, total_steps: int) -> OptimizerLRSchedulerConfig:
    """AdamW with `learning_rate_factor`, updated at every step; trunks learn ``trunk_lr_scale`` times as fast."""
    groups = list(framework.param_groups())
    if trainer.trunk_lr_scale != 1:
        groups = _split(groups, trunk_parameters(framework), trainer.trunk_lr_scale)
    optimizer = torch.optim.AdamW(
        [{**group, "lr": trainer.learning_rate * group["lr_scale"]} for group in groups],
        lr=trainer.learning_rate,
        weight_decay=trainer.weight_decay,
        fused=True,
    )
    warmup = max(1, round(trainer.warmup_share * total_steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, warmup, total_steps, trainer.final_lr_share)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def trunk_parameters(model: Framework | nn.Module) -> list[nn.Parameter]:
    """The trained parameters of the encoders' trunks."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    trunks = [trunk for encoder in modules if isinstance(encoder, Encoder) for trunk in encoder.trunk_modules()]
    return [parameter for trunk in trunks for parameter in trunk.parameters() if parameter.requires_grad]


def _split(groups: Iterable[Mapping[str, Any]], trunk: Iterable[nn.Parameter], scale: float) -> list[Mapping[str, Any]]:
    """Split each group into the layers on trunks, which come first, and the trunks, whose ``lr_scale`` is scaled."""
    ids, found = set(map(id, trunk)), []
    for inside in (False, True):
        for group in groups:
            params = [p for p in group["params"] if (id(p) in ids) is inside]
            found.append({**group, "params": params, "lr_scale": group["lr_scale"] * (scale if inside else 1.0)})
    return [group for group in found if group["params"]]


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
