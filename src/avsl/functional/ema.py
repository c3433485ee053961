"""Exponential moving average of networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, *, buffers: bool = True) -> None:
    """θ_teacher ← β θ_teacher + (1 − β) θ_student, in place.

    Args:
        teacher: the averaged network.
        student: a network of the same shape.
        decay: β in [0, 1); 0 copies the student.
        buffers: whether the student's buffers (batch-norm statistics) are copied; not where the teacher keeps its own.
    """
    averaged = cast("list[Tensor]", list(teacher.parameters()))
    torch._foreach_lerp_(averaged, [p.detach() for p in student.parameters()], 1.0 - decay)
    if buffers and (own := list(teacher.buffers())):
        torch._foreach_copy_(own, list(student.buffers()))
