"""Operations on tensors of several training processes (torch.distributed); no-ops for a single process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed


def together() -> bool:
    """Whether this process trains with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes in the order of their ranks.

    The gradient of a row returns to its process, summed over the losses of all processes. If every process computes the
    same loss from all rows, and data-parallel training then averages the weights' gradients, they equal those of this
    loss in a single process.

    Args:
        rows: (B, ...), of the same shape in every process.

    Returns:
        (processes · B, ...); for a single process ``rows`` itself.
    """
    if not together():
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch's own
    return gathered


class _Gather(torch.autograd.Function):
    """Replaces `torch.distributed.nn.functional.all_gather`, which permutes gradients in channels-last layout."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Gather the rows of all processes."""
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients of this process's rows over all processes."""
        summed = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed.chunk(distributed.get_world_size())[distributed.get_rank()]


@torch.no_grad()
def follow_first(tensors: Iterable[Tensor]) -> None:
    """Copy the first process's tensors to all processes, in place."""
    if together():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
