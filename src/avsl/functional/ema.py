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
        buffers: whether to copy the student's buffers (batch-norm statistics); False for a teacher with its own.

    Examples:
        >>> teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> with torch.no_grad():
        ...     _ = teacher.weight.fill_(1.0), student.weight.fill_(3.0)
        >>> ema_update(teacher, student, decay=0.75)
        >>> teacher.weight.item()
        1.5
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own
    average(list(teacher.parameters()), list(student.parameters()), None)
    if buffers and (averaged := list(teacher.buffers())):
        torch._foreach_copy_(averaged, list(student.buffers()))


def half_life_decay(half_life: float) -> float:
    """The decay β with which a student's weight in the average halves within ``half_life`` >= 1 steps.

    Examples:
        >>> half_life_decay(1), round(half_life_decay(693), 3)
        (0.5, 0.999)
    """
    return float(0.5 ** (1 / half_life))
