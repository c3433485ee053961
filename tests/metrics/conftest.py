"""Rows that some models would localize."""

from __future__ import annotations

import pytest
import torch
from tests.fixtures.maps import draw_boxes


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve blobs near boxes, good enough that some of them succeed."""
    rng = torch.Generator().manual_seed(3)
    start = torch.rand(12, 2, generator=rng, dtype=torch.float64) * 0.5
    extent = 0.25 + torch.rand(12, 2, generator=rng, dtype=torch.float64) * 0.25
    boxes = torch.cat([start, start + extent], dim=1)
    truth = draw_boxes(boxes, torch.arange(13), 32)
    blobs = torch.nn.functional.avg_pool2d(truth, 4)
    return (0.6 * blobs + 0.4 * torch.rand(12, 8, 8, generator=rng)), truth
