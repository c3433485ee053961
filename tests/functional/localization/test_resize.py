"""Resizing, against torch's own and OpenCV's arithmetic."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.fixtures.maps import draw_maps, generator

from avsl.functional import localization as loc


@pytest.mark.parametrize(
    ("cells", "size"), [(7, (224, 224)), (16, (64, 64)), (12, (200, 150)), (5, (3, 4)), (1, (8, 8))]
)
def test_resize_agrees_with_torch(cells: int, size: tuple[int, int]) -> None:
    """Bilinear to rounding, bicubic to the bit, up and down, square or not."""
    maps = draw_maps(3, cells)
    bilinear = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(loc.resize_maps(maps, size, "opencv_bilinear"), bilinear, rtol=0, atol=5e-6)
    modes: tuple[tuple[loc.ResizeMode, bool], ...] = (("bicubic", False), ("bicubic_aligned", True))
    for mode, aligned in modes:
        expected = torch.cat(
            [F.interpolate(m[None, None], size, mode="bicubic", align_corners=aligned)[0] for m in maps]
        )
        assert torch.equal(loc.resize_maps(maps, size, mode), expected)


@pytest.mark.parametrize(("cells", "size"), [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((4, 8), (32, 128))])
@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_products_have_torchs_bits_in_any_batch(cells: tuple[int, int], size: tuple[int, int], count: int) -> None:
    """Bicubic on maps of both signs, at borders and on ties: not one bit differs, however many rows there are."""
    maps = torch.randn(count, *cells, generator=generator(count))
    maps[0] = (maps[0] * 2).round() / 2
    expected = F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0]
    assert torch.equal(loc.resize_maps(maps, size, "bicubic"), expected)


def test_bilinear_is_rounded_once_a_side() -> None:
    """As OpenCV fuses a + (b - a) · w: NumPy's products in float64, rounded to float32 after each side."""
    maps = torch.randn(9, 7, 7, generator=generator(1)).numpy()
    position = np.clip((np.arange(224) + 0.5) / 32 - 0.5, 0, 6)
    left = position.astype(int)
    right, step = np.minimum(left + 1, 6), position - left
    rows = (maps[:, :, left] + (maps[:, :, right] - maps[:, :, left]) * step).astype(np.float32)
    expected = (rows[:, left] + (rows[:, right] - rows[:, left]) * step[:, None]).astype(np.float32)
    np.testing.assert_array_equal(loc.resize_maps(torch.from_numpy(maps), (224, 224), "opencv_bilinear"), expected)


def test_bilinear_stays_between_the_cells_and_keeps_the_border() -> None:
    """Interpolation never overshoots; the corners hold the corner cells."""
    maps = draw_maps(4, 7, seed=3)
    resized = loc.resize_maps(maps, (224, 224), "opencv_bilinear")
    assert torch.equal(resized[:, 0, 0], maps[:, 0, 0])
    assert torch.equal(resized[:, -1, -1], maps[:, -1, -1])
    assert bool((resized.amax((1, 2)) <= maps.amax((1, 2))).all())


def test_maps_at_the_truths_size_are_left_alone() -> None:
    """No mode touches a map that has the size already."""
    maps = draw_maps(2, 12)
    for mode in get_args(loc.ResizeMode):
        assert torch.equal(loc.resize_maps(maps, (12, 12), mode), maps)


def test_minmax_spans_the_unit_range_and_keeps_constant_maps() -> None:
    """From 0 to 1, without a division by zero."""
    maps = torch.cat([draw_maps(3, 6) * 5 - 2, torch.full((1, 6, 6), 0.3)])
    stretched = loc.minmax(maps)
    assert torch.equal(stretched[:3].amin((1, 2)), torch.zeros(3))
    assert torch.equal(stretched[:3].amax((1, 2)), torch.ones(3))
    assert torch.equal(stretched[3], maps[3])


def test_autocast_leaves_resizing_alone() -> None:
    """In bf16, which autocast would choose, a pixel would keep two digits."""
    maps = draw_maps(3, 7)
    for mode in get_args(loc.ResizeMode):
        expected = loc.resize_maps(maps, (224, 224), mode)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loc.resize_maps(maps, (224, 224), mode), expected)
