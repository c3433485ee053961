"""Students and batches for the tests of frameworks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from avsl.frameworks.branch import Branch
from avsl.functional.geometry import identity
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.types import AVBatch, AVOutput, Head, SemiBatch, Views


class Table(nn.Module):
    """A localizer that looks its answer up by the row's number: what it says is known exactly."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(2 * torch.randn(8, size, size, generator=generator))
        self.visual = nn.Parameter(torch.randn(8, 4, size, size, generator=generator))
        self.audio = nn.Parameter(torch.randn(8, 4, generator=generator))

    def forward(self, batch: AVBatch) -> AVOutput:
        """The rows' entries, whatever the view shows."""
        rows = batch.index
        head = Head(F.normalize(self.visual[rows], dim=1), F.normalize(self.audio[rows], dim=1))
        return AVOutput((head,), self.logits[rows], self.visual[rows])


MakeTables = Callable[..., Callable[[int], Branch]]


@pytest.fixture
def tables() -> MakeTables:
    """``tables(4, 8)`` builds students k = 0, 1 as tables with grids of 4 and 8 cells a side."""

    def make(*sizes: int) -> Callable[[int], Branch]:
        return lambda k: Branch(Table(sizes[k], seed=k), EZVSL(EZVSLConfig(temperature=0.5)))

    return make


@pytest.fixture
def table_batch() -> SemiBatch:
    """Rows 0-2 labeled with boxes on an 8 px frame, rows 3-7 not; no view is augmented."""

    def view(rows: Sequence[int], *, mask: bool) -> AVBatch:
        boxes = torch.zeros(len(rows), 8, 8)
        for k in range(len(rows)):
            boxes[k, k : k + 4, 2:7] = 1
        return AVBatch(
            frame=torch.zeros(len(rows), 3, 8, 8),
            waveform=None,
            features={},
            index=torch.tensor(rows),
            geometry=identity(len(rows)),
            mask=boxes if mask else None,
        )

    unlabeled = view(range(3, 8), mask=False)
    return SemiBatch(Views((view(range(3), mask=True),)), Views((unlabeled,), weak=unlabeled))
