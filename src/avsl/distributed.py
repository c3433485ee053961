"""Tensors of processes that train together (torch.distributed); where there is one process each is the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed


def together() -> bool:
    """Whether this process trains with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks: (B, ...) in each to (processes · B, ...) in all.

    A gradient goes back to the process whose row it is, summed over the processes' losses: where each computes the same
    loss from all rows, and the gradients of the weights are then averaged, as data-parallel training does, they are
    those of that loss in a single process.

    Args:
        rows: (B, ...), the same shape in every process; a process alone gets the very tensor back.
    """
    if not together():
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch's own
    return gathered


class _Gather(torch.autograd.Function):
    """torch's own, `torch.distributed.nn.functional.all_gather`, mixes up gradients that lie channels-last."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """All rows."""
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum over the processes, of this one's rows."""
        summed = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed.chunk(distributed.get_world_size())[distributed.get_rank()]


@torch.no_grad()
def follow_first(tensors: Iterable[Tensor]) -> None:
    """Give each tensor the first process's value, in place."""
    if together():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
