"""The module's own step: augmentation, loss and what is logged, without Lightning's loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avsl.build import make_loader, make_reader
from avsl.config.compose import compose
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.branch import Branch
from avsl.paths import Layout
from avsl.stages.prepare import load_data
from avsl.training.module import SemiModule
from avsl.types import KeepsLabels


class _ReadError(Exception):
    pass


class _Unread(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Refuses to give a tensor's value to Python, as ``item()``, ``float()``, ``bool()`` and the like ask for it."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do anything else."""
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _ReadError
        return func(*args, **(kwargs or {}))


def _unread() -> _Unread:
    return _Unread()  # type: ignore[no-untyped-call]  # torch's own


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_step_reads_no_value(framework: str, layout: Callable[..., Layout]) -> None:
    """Loss and backward pass, pseudo-labels and their quality against the hidden truth: nothing is waited for.

    But for XPL once it labels: which labels are good enough it asks of all labels so far, which the host keeps.
    """
    config = compose([f"framework={framework}"])
    data, drawn = load_data(layout())
    reader = make_reader(config, [config.model.student(0)], data, data.rows_of(drawn.labeled + drawn.unlabeled))
    module = SemiModule(config, total_steps=6)
    loader = make_loader(config, reader, drawn, module.framework)
    for step in (0, 5):
        rows = loader.rows(step)
        if isinstance(module.framework, KeepsLabels) and step:
            with _unread(), pytest.raises(_ReadError):
                module.training_step(rows, 0)
            continue
        with _unread():
            module.training_step(rows, 0).backward()  # type: ignore[no-untyped-call]  # torch's own
            module.framework.after_step(step)
    assert all(p.grad is not None for group in module.framework.param_groups() for p in group["params"])
    with _unread(), pytest.raises(_ReadError):
        float(torch.zeros(()))


@pytest.mark.parametrize("framework", ["dmt", "xpl"])
def test_independent_students_are_clipped_apart(framework: str, project: Path) -> None:
    """However large the other's gradient is, a student's is clipped to its own norm, in its own direction."""
    module = SemiModule(compose([f"framework={framework}"]), total_steps=6)
    first, second = (part for part in module.modules() if isinstance(part, Branch))
    for student, size in ((first, 0.1), (second, 1e6)):
        for p in student.parameters():
            if p.requires_grad:
                p.grad = torch.full_like(p, size)
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in s.parameters() if p.grad is not None]) for s in (first, second)
    ]
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters(), 0.1), 0.5)
    for student, size, norm in ((first, 0.1, norms[0]), (second, 1e6, norms[1])):
        expected = size * min(1.0, 0.5 / float(norm))
        found = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        torch.testing.assert_close(found, torch.full_like(found, expected))
