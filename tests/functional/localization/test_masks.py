"""Masks of maps, against full sorts and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.fixtures.maps import draw_maps, draw_truth
from tests.fixtures.messages import facts

from avsl.functional import localization as loc


@pytest.mark.parametrize("convention", ["median", "median_strict", "adaptive"])
@pytest.mark.parametrize("size", [(224, 224), (93, 31), (3, 3)])
@pytest.mark.parametrize("kind", ["smooth", "ties", "constant", "one column apart"])
def test_thresholds_by_rank_are_those_of_a_full_sort(
    convention: loc.Convention, size: tuple[int, int], kind: str
) -> None:
    """Whatever the values and areas, and where the few pixels looked at first tell nothing of the others."""
    maps = loc.minmax(loc.resize_maps(draw_maps(4, 7, seed=8), size, "bicubic"))
    if kind == "ties":
        maps = (maps * 5).round() / 5
    elif kind == "constant":
        maps = torch.full_like(maps, 0.3)
    elif kind == "one column apart":
        maps[..., 0] = torch.tensor([-1.0, 2.0, -1.0, 2.0])[:, None]
    pixels = size[0] * size[1]
    truth = torch.zeros(4, pixels, dtype=torch.bool)
    areas = (1, 2, pixels // 2, pixels)
    for row, area in enumerate(areas):
        truth[row, :area] = True
    actual = loc.binarize(maps, convention, truth=truth.view(4, *size)).numpy()
    for values, area, mask in zip(maps.numpy(), areas, actual, strict=True):
        ranked = np.sort(values.ravel())
        cut = ranked[-area] if convention == "adaptive" else ranked[pixels // 2]
        np.testing.assert_array_equal(mask, values >= cut if convention == "median" else values > cut)


@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_a_batch_equals_its_rows_in_any_order(convention: loc.Convention) -> None:
    """No row knows of its neighbors."""
    threshold = 0.5 if convention.startswith("fixed") else None
    maps, truth = draw_maps(6, 7, seed=2), draw_truth(6, 56, seed=2)
    together = loc.predict_mask(maps, truth, convention, threshold)
    alone = torch.cat([loc.predict_mask(maps[i : i + 1], truth[i : i + 1], convention, threshold) for i in range(6)])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(together, alone)
    assert torch.equal(loc.predict_mask(maps[order], truth[order], convention, threshold), together[order])


@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_only_the_absolute_convention_feels_the_scale(convention: loc.Convention) -> None:
    """A quarter of the confidence is the same ranking but no prediction."""
    threshold = 0.5 if convention.startswith("fixed") else None
    maps, truth = draw_maps(6, 7, seed=4), draw_truth(6, 56, seed=4)
    before = loc.predict_mask(maps, truth, convention, threshold)
    # A quarter is exact in binary, so not one pixel may change.
    after = loc.predict_mask(maps / 4, truth, convention, threshold)
    assert torch.equal(before, after) == (convention != "fixed")
    assert convention != "fixed" or not bool(after.any())


def test_conventions_together_equal_each_alone() -> None:
    """Sharing the resizing changes no pixel."""
    maps, truth = draw_maps(6, 7, seed=5), draw_truth(6, 56, seed=5)
    thresholds = {c: 0.4 if c.startswith("fixed") else None for c in loc.CONVENTIONS}
    together = loc.predict_masks(maps, truth, thresholds)
    assert list(together) == list(loc.CONVENTIONS)
    for convention, threshold in thresholds.items():
        assert torch.equal(together[convention], loc.predict_mask(maps, truth, convention, threshold))


def test_half_precision_maps_are_scored_in_float32() -> None:
    """bf16 maps give what their float32 values give."""
    maps, truth = draw_maps(4, 7).bfloat16(), draw_truth(4, 56)
    for convention in loc.CONVENTIONS:
        threshold = 0.5 if convention.startswith("fixed") else None
        halves = loc.predict_mask(maps, truth, convention, threshold)
        assert torch.equal(halves, loc.predict_mask(maps.float(), truth, convention, threshold))


def test_binarize_says_what_is_missing() -> None:
    """The error names the convention."""
    maps = draw_maps(1, 4)
    with pytest.raises(ValueError, match=facts("threshold")):
        loc.binarize(maps, "fixed")
    with pytest.raises(ValueError, match=facts("truth")):
        loc.binarize(maps, "adaptive")
