"""Exponential moving average of networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """θ_teacher ← β θ_teacher + (1 − β) θ_student, in place; buffers (batch-norm statistics) are copied.

    Args:
        teacher: the averaged network.
        student: a network of the same shape.
        decay: β in [0, 1); 0 copies the student.
    """
    averaged = cast("list[Tensor]", list(teacher.parameters()))
    torch._foreach_lerp_(averaged, [p.detach() for p in student.parameters()], 1.0 - decay)
    buffers = list(teacher.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(student.buffers()))
