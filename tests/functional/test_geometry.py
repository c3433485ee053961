"""Geometries: views of a frame, and labels carried between them, against coordinates worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from avsl.functional.geometry import identity, relative, transfer_labels, warp

Array = NDArray[np.float64]
SIDE = 48
PIXEL = 2 / SIDE


def _geometry(scale: float, x: float, y: float, flip: bool) -> Tensor:
    """A square crop of the frame, (1, 2, 3); x and y in [-1, 1] say where in the room that is left."""
    room = 1 - scale
    return torch.tensor([[[-scale if flip else scale, 0.0, x * room], [0.0, scale, y * room]]])


geometries = st.builds(_geometry, st.floats(0.5, 1), st.floats(-1, 1), st.floats(-1, 1), st.booleans())
boxes = st.tuples(*[st.integers(0, SIDE // 2 - 4)] * 2, *[st.integers(6, SIDE // 2)] * 2)


def _coordinates(geometry: Tensor) -> tuple[Array, Array]:
    """Where in the frame, x and y in [-1, 1], each cell of a view lies."""
    matrix = geometry[0].double().numpy()
    centers = (np.arange(SIDE) + 0.5) * PIXEL - 1
    u, v = np.meshgrid(centers, centers)
    x: Array = matrix[0, 0] * u + matrix[0, 1] * v + matrix[0, 2]
    y: Array = matrix[1, 0] * u + matrix[1, 1] * v + matrix[1, 2]
    return x, y


def _waves(seed: int, geometry: Tensor) -> Tensor:
    """A few slow waves over the frame as the view shows them, (1, SIDE, SIDE), in [0, 1]."""
    fx, fy, phase = np.random.default_rng(seed).uniform(-2, 2, 3)
    x, y = _coordinates(geometry)
    return torch.from_numpy(0.5 + 0.5 * np.sin(fx * x + fy * y + phase)).float()[None]


def _distances(geometry: Tensor, box: tuple[int, int, int, int]) -> Array:
    """How far inside the box (x, y, width, height) each cell of a view lies, in frame pixels; negative outside."""
    x, y, width, height = box
    fx, fy = ((coordinate + 1) / PIXEL for coordinate in _coordinates(geometry))
    distances: Array = np.minimum(np.minimum(fx - x, x + width - fx), np.minimum(fy - y, y + height - fy))
    return distances


def test_identity_leaves_images_alone() -> None:
    """Looking through the identity changes nothing."""
    images = torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp(images, identity(3)), images)


def test_a_flip_mirrors_columns_and_twice_is_nothing() -> None:
    """A negative x mirrors left and right; two of them restore the image."""
    images = torch.rand(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
    flip = _geometry(1.0, 0, 0, True).expand(2, 2, 3)
    torch.testing.assert_close(warp(images, flip), images.flip(-1))
    torch.testing.assert_close(warp(warp(images, flip), flip), images)


def test_a_crop_is_enlarged_and_outside_is_zero() -> None:
    """The upper left quarter fills the view; a view twice as wide as the frame is 0 around it."""
    images = torch.arange(1.0, 17).view(1, 1, 4, 4)
    quarter = warp(images, _geometry(0.5, -1, -1, False), size=(2, 2))
    torch.testing.assert_close(quarter, images[..., :2, :2])
    wide = warp(torch.ones(1, 1, 4, 4), 2 * identity(1), size=(8, 8), mode="nearest")
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., 2:6, 2:6] = 1
    torch.testing.assert_close(wide, expected)


@given(source=geometries, target=geometries)
@settings(max_examples=25, deadline=None)
def test_relative_maps_compose(source: Tensor, target: Tensor) -> None:
    """From target to source to frame is the way from target to frame; a view relative to itself is the identity."""
    there = relative(source, target)
    point = torch.tensor([0.3, -0.7, 1.0])
    through = torch.cat([there[0] @ point, torch.ones(1)])
    torch.testing.assert_close(source[0] @ through, target[0] @ point, atol=1e-5, rtol=0)
    torch.testing.assert_close(relative(source, source), identity(1), atol=1e-5, rtol=0)


@given(source=geometries, target=geometries, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_labels_carried_over_agree_with_the_frame_and_come_back(source: Tensor, target: Tensor, seed: int) -> None:
    """Where the source view reached, a carried map is the one the target shows; and carried back it is itself."""
    labels, direct = _waves(seed, source), _waves(seed, target)
    carried, seen = transfer_labels(labels, source, target)
    inside = seen > 0.999
    torch.testing.assert_close(carried[inside], direct[inside], atol=0.01, rtol=0)
    returned, seen_back = transfer_labels(carried, target, source)
    # Cells whose neighbors in the target view were all seen.
    whole = (seen_back > 0.999) & (transfer_labels(inside.float(), target, source)[0] > 0.999)
    torch.testing.assert_close(returned[whole], labels[whole], atol=0.02, rtol=0)


@given(source=geometries, target=geometries)
@settings(max_examples=25, deadline=None)
def test_seen_says_what_the_source_view_showed(source: Tensor, target: Tensor) -> None:
    """``seen`` is 1 inside the source view, 0 outside it, and what is not seen carries no label."""
    carried, seen = transfer_labels(torch.ones(1, SIDE, SIDE), source, target)
    depth = torch.from_numpy(_distances(relative(source, target), (0, 0, SIDE, SIDE)))[None]
    assert (seen[depth > 1] > 0.999).all()
    assert (seen[depth < -1] == 0).all()
    assert (carried[depth < -1] == 0).all()
    # At the border too the label is the label, not its share of the cell.
    torch.testing.assert_close(carried[seen > 0.1], torch.ones_like(carried[seen > 0.1]), atol=1e-3, rtol=0)


def test_a_view_that_shows_half_says_so() -> None:
    """A source view of the left half has seen the left half of the frame and nothing else."""
    left = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]])
    carried, seen = transfer_labels(torch.ones(1, 8, 8), left, identity(1))
    expected = torch.zeros(1, 8, 8)
    expected[..., :4] = 1
    torch.testing.assert_close(seen.round(), expected)
    assert carried[..., 5:].max() == 0


@given(source=geometries, target=geometries, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_what_is_not_known_is_not_carried(source: Tensor, target: Tensor, seed: int) -> None:
    """Whatever stands in cells that are not known changes nothing and they count as not seen."""
    generator = torch.Generator().manual_seed(seed)
    labels, poison = torch.rand(2, 1, SIDE, SIDE, generator=generator)
    known = torch.ones(1, SIDE, SIDE)
    known[..., : SIDE // 2] = 0
    carried, seen = transfer_labels(labels, source, target, known)
    other, seen_other = transfer_labels(torch.where(known > 0, labels, poison), source, target, known)
    assert torch.equal(carried, other)
    assert torch.equal(seen, seen_other)
    torch.testing.assert_close(seen, warp(known[:, None], relative(source, target))[:, 0])
    constant, _ = transfer_labels(torch.full_like(labels, 0.7), source, target, known)
    torch.testing.assert_close(constant[seen > 0.1], torch.full_like(constant[seen > 0.1], 0.7))
    assert transfer_labels(labels, source, target, torch.zeros_like(known))[1].max() == 0


@given(geometry=geometries, source=geometries, box=boxes)
@settings(max_examples=25, deadline=None)
def test_a_box_mask_carried_is_the_box_carried(
    geometry: Tensor, source: Tensor, box: tuple[int, int, int, int]
) -> None:
    """Cells a pixel inside the box are 1 and cells a pixel outside 0, looked at directly or by way of a view."""
    x, y, width, height = box
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, y : y + height, x : x + width] = 1
    direct = warp(mask[:, None], geometry)[0, 0].numpy()
    depth = _distances(geometry, box)
    np.testing.assert_allclose(direct[depth > 1], 1, atol=1e-4)
    np.testing.assert_allclose(direct[depth < -1], 0, atol=1e-4)
    carried, seen = transfer_labels(warp(mask[:, None], source)[:, 0], source, geometry)
    known = seen[0].numpy() > 0.999
    np.testing.assert_allclose(carried[0].numpy()[known & (depth > 2)], 1, atol=1e-3)
    np.testing.assert_allclose(carried[0].numpy()[known & (depth < -2)], 0, atol=1e-3)


@pytest.mark.parametrize("size", [(6, 6), (12, 24)])
def test_one_geometry_serves_every_resolution(size: tuple[int, int]) -> None:
    """A frame half bright, half dark is so at every size of the view."""
    image = torch.zeros(1, 1, 24, 24)
    image[..., :12] = 1
    view = warp(image, _geometry(1.0, 0, 0, True), size=size)[0, 0]
    assert view.shape == size
    torch.testing.assert_close(view[:, size[1] // 2 + 1 :], torch.ones(size[0], size[1] // 2 - 1))
    assert view[:, : size[1] // 2 - 1].max() == 0


def test_autocast_moves_nothing() -> None:
    """Half precision is for networks: where a view lies, and what is carried between two, stays exact under it."""
    generator = torch.Generator().manual_seed(0)
    source, target = _geometry(0.7, 0.31, -0.47, flip=False), _geometry(0.83, -0.6, 0.11, flip=True)
    labels = torch.rand(1, 16, 16, generator=generator)
    exact = transfer_labels(labels, source, target)
    with torch.autocast("cpu", torch.bfloat16):
        halved = transfer_labels(labels, source, target)
    for one, other in zip(exact, halved, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)
