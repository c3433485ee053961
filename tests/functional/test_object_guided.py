"""Object-guided localization against the published test code, written out in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from avsl.functional.object_guided import object_guided

Array = npt.NDArray[np.float64]


def _rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _stretch(values: Array) -> Array:
    low, high = values.min(), values.max()
    return values if high == low else (values - low) / (high - low)


def _loop_enlarge(grid: Array, height: int, width: int) -> Array:
    """Bilinear, the corners' centers on one another."""
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v, u = y * (grid.shape[0] - 1) / (height - 1), x * (grid.shape[1] - 1) / (width - 1)
            top, left = min(int(v), grid.shape[0] - 2), min(int(u), grid.shape[1] - 2)
            b, r = v - top, u - left
            upper = grid[top, left] * (1 - r) + grid[top, left + 1] * r
            lower = grid[top + 1, left] * (1 - r) + grid[top + 1, left + 1] * r
            out[y, x] = upper * (1 - b) + lower * b
    return out


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_it_is_the_published_mixture(alpha: float) -> None:
    """Enlarge each, stretch each to [0, 1], mix, stretch the mixture; grids of two sizes on a frame of a third."""
    maps, objects = _rand(0, 3, 4, 5), 7 * _rand(1, 3, 2, 3)
    mixed = object_guided(maps, objects, alpha, (9, 11))
    for k in range(3):
        sound, sight = (_stretch(_loop_enlarge(m[k].double().numpy(), 9, 11)) for m in (maps, objects))
        np.testing.assert_allclose(mixed[k], _stretch(alpha * sound + (1 - alpha) * sight), atol=1e-5)


def test_only_the_shapes_of_the_two_maps_count() -> None:
    """Scale and offset of either change nothing: every map spans [0, 1], also one of a frame where nothing sounds."""
    maps, objects = _rand(2, 2, 7, 7), _rand(3, 2, 7, 7)
    mixed = object_guided(maps, objects, 0.4, (28, 28))
    torch.testing.assert_close(
        object_guided(1e-3 * maps - 5, 40 * objects + 2, 0.4, (28, 28)), mixed, atol=1e-3, rtol=0
    )
    torch.testing.assert_close(mixed.amax((-2, -1)), torch.ones(2))
    torch.testing.assert_close(mixed.amin((-2, -1)), torch.zeros(2))


def test_a_map_without_contrast_leaves_the_other() -> None:
    """Where the sound says the same everywhere, what is seen decides, and the other way round."""
    flat, grid = torch.full((1, 3, 3), 0.3), _rand(4, 1, 3, 3)
    alone = object_guided(grid, grid, 0.5, (12, 12))
    torch.testing.assert_close(object_guided(flat, grid, 0.4, (12, 12)), alone)
    torch.testing.assert_close(object_guided(grid, flat, 0.4, (12, 12)), alone)
