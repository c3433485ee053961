"""Embeddings to score, gradients by finite differences, and the published values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fixtures.reference import LoadReference
from torch import Tensor
from torch.nn import functional as F

from avsl.types import AVOutput, Head


@pytest.fixture(scope="session")
def published(load_reference: LoadReference) -> dict[str, Tensor]:
    """The arrays of contrastive_losses.npz."""
    return load_reference("contrastive_losses.npz")


class MakeOutput(Protocol):
    """Makes a model's output of its heads' embeddings."""

    def __call__(self, *heads: tuple[Tensor, Tensor], momentum: AVOutput | None = None) -> AVOutput:
        """Each head a (B, C, h, w) visual and a (B, C) audio embedding; the logits are 0."""
        ...


@pytest.fixture(scope="session")
def make_output() -> MakeOutput:
    """Makes outputs."""

    def make(*heads: tuple[Tensor, Tensor], momentum: AVOutput | None = None) -> AVOutput:
        visual = heads[0][0]
        return AVOutput(tuple(Head(v, a) for v, a in heads), torch.zeros_like(visual[:, 0]), visual, momentum)

    return make


Draw = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """``draw(seed, pairs)``: random normalized embeddings of that many pairs on a 2 x 3 grid, in double precision."""

    def make(seed: int, pairs: int = 4) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        visual = torch.randn(pairs, 5, 2, 3, generator=generator, dtype=torch.float64)
        audio = torch.randn(pairs, 5, generator=generator, dtype=torch.float64)
        return F.normalize(visual, dim=1), F.normalize(audio, dim=1)

    return make


Array = NDArray[np.float64]
NumericGradient = Callable[..., list[Array]]


@pytest.fixture(scope="session")
def numeric_gradient() -> NumericGradient:
    """``numeric_gradient(f, x, y)``: central differences of f(x, y) in every entry of x and of y."""

    def differentiate(function: Callable[..., float], *arguments: Array) -> list[Array]:
        gradients = []
        for k, argument in enumerate(arguments):
            gradient = np.zeros_like(argument)
            for entry in np.ndindex(argument.shape):
                values = []
                for step in (1e-6, -1e-6):
                    moved = argument.copy()
                    moved[entry] += step
                    values.append(function(*arguments[:k], moved, *arguments[k + 1 :]))
                gradient[entry] = (values[0] - values[1]) / 2e-6
            gradients.append(gradient)
        return gradients

    return differentiate
