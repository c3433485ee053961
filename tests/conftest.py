"""A localiser small enough that a training step takes a moment, and views for it."""

from __future__ import annotations

from typing import Protocol

import pytest
import torch

from avsl.functional.geometry import identity
from avsl.models import LocalizerConfig
from avsl.models.front_ends import LogMel
from avsl.types import AVBatch

_NETWORK = {
    "backbone": "resnet10t",
    "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 4, "zero_init_last": False},
}


@pytest.fixture(scope="session")
def tiny() -> LocalizerConfig:
    """Two small networks; an 8 x 8 map of a 32 px frame."""
    front_end = {"n_fft": 256, "hop_length": 160, "n_mels": 32}
    return LocalizerConfig.read(
        {"dim": 8, "image": _NETWORK | {"stages": [1, 2]}, "audio": _NETWORK | {"front_end": front_end}}, "model"
    )


class MakeView(Protocol):
    """Draws a view of some rows."""

    def __call__(self, rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        """Random 32 px frames with cached spectrograms, or with 0.25 s of sound; with box masks where asked."""
        ...


@pytest.fixture(scope="session")
def make_view(tiny: LocalizerConfig) -> MakeView:
    """Draws views that the tiny localiser can see."""
    key = LogMel(tiny.audio.front_end).key

    def make(rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        generator = torch.Generator().manual_seed(seed)
        box = torch.zeros(rows, 32, 32)
        for row in range(rows):
            x, y = torch.randint(0, 20, (2,), generator=generator).tolist()
            box[row, y : y + 12, x : x + 12] = 1
        return AVBatch(
            frame=torch.randn(rows, 3, 32, 32, generator=generator),
            waveform=torch.rand(rows, 4000, generator=generator) - 0.5 if sound else None,
            features={} if sound else {key: torch.randn(rows, 1, 32, 26, generator=generator)},
            index=torch.arange(rows),
            geometry=identity(rows),
            mask=box if mask else None,
        )

    return make
