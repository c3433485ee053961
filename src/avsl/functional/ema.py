"""Exponential moving average of networks."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, *, buffers: bool = True) -> None:
    """θ_teacher ← β θ_teacher + (1 − β) θ_student, in place.

    Args:
        teacher: the averaged network.
        student: a network of the same shape.
        decay: β in [0, 1); 0 copies the student.
        buffers: whether the student's buffers (batch-norm statistics) are copied; not where the teacher keeps its own.
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own
    average(list(teacher.parameters()), list(student.parameters()), None)
    if buffers and (own := list(teacher.buffers())):
        torch._foreach_copy_(own, list(student.buffers()))


def half_life_decay(half_life: float) -> float:
    """β with which a student's weight in the average halves in ``half_life`` steps; at least 1."""
    return float(0.5 ** (1 / half_life))
