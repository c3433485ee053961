"""Augmentation: image and mask move together, sound only where asked, and everything by the generator's state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts
from torch import Tensor

from avsl.data.loading import Rows
from avsl.data.transforms import (
    AugmentConfig,
    make_views,
    mask_spectrogram,
    plain_view,
    random_color,
    random_geometry,
    recolor,
    strong_view,
    weak_view,
)
from avsl.functional.geometry import warp
from avsl.functional.image import MEAN, STD
from avsl.schema import ConfigError
from avsl.types import AVBatch, join

STRONG = AugmentConfig(flip=0.5, weak_scale=0.9, strong_scale=0.5, jitter=0.4, noise=0.1, spec_mask=0.25)
STILL = AugmentConfig(flip=0, weak_scale=1, strong_scale=1, jitter=0, noise=0, spec_mask=0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(count: int = 6, seed: int = 0, side: int = 32) -> Rows:
    """Dark random frames in which the mask's box is drawn bright, with spectrograms and sound."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(count, side, side)
    for row in range(count):
        x, y = rng.integers(0, side // 2, 2)
        mask[row, y : y + side // 3, x : x + side // 4] = 1
    pixels = torch.from_numpy(rng.integers(0, 40, (count, side, side, 3))) + 200 * mask[..., None]
    features = {"mel": torch.from_numpy(rng.normal(size=(count, 1, 20, 40))).float() + 5}
    sound = torch.from_numpy(rng.normal(size=(count, 50))).float()
    return Rows(pixels.to(torch.uint8), sound, features, torch.arange(count), torch.arange(count), mask)


def _levels(frames: Tensor) -> Tensor:
    """Normalized frames back in 0 to 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return 255 * (frames * std + mean)


def _same(first: AVBatch, second: AVBatch) -> bool:
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (first.frame, second.frame),
        (first.geometry, second.geometry),
        (first.mask, second.mask),
        *((feature, second.features[key]) for key, feature in first.features.items()),
    ]
    return all(a is None or (b is not None and torch.equal(a, b)) for a, b in pairs)


@pytest.mark.parametrize("seed", range(3))
def test_image_and_mask_move_together(seed: int) -> None:
    """The mask lies on the bright box in weak and strong views, however they are cropped and mirrored."""
    rows = _rows(seed=seed)
    config = AugmentConfig(flip=0.5, weak_scale=0.6, strong_scale=0.5, jitter=0, noise=0, spec_mask=0)
    for view in (weak_view(rows, config, _generator(seed)), strong_view(rows, config, _generator(seed))):
        assert view.mask is not None
        assert view.frame.shape == rows.frame.shape
        brightness = (_levels(view.frame).mean(1) - 20) / 200
        inside = slice(1, -1)  # at a crop's border, what lies outside it plays no part
        # The frame without its box is within 20 ± 20, so the box's share of a cell shows to a tenth.
        torch.testing.assert_close(brightness[:, inside, inside], view.mask[:, inside, inside], atol=0.11, rtol=0)
        assert not torch.allclose(view.frame, rows.frame)
        # Resized as bytes, row by row, it is to one level what a device that samples floats would see.
        sampled = _levels(warp(rows.frame, view.geometry))[:, :, inside, inside]
        torch.testing.assert_close(_levels(view.frame)[:, :, inside, inside], sampled, atol=1.01, rtol=0)
        assert rows.mask is not None
        sampled = warp(rows.mask[:, None], view.geometry)[:, 0, inside, inside]
        torch.testing.assert_close(view.mask[:, inside, inside], sampled, atol=1e-4, rtol=0)


def test_geometry_says_where_the_view_lies() -> None:
    """Sampling the frame at the geometry's coordinates, by hand, finds the view's pixels."""
    rows = _rows(side=16)
    steps = torch.arange(0, 256, 16, dtype=torch.uint8)
    ramps = [steps.expand(16, 16), steps[:, None].expand(16, 16), torch.zeros(16, 16, dtype=torch.uint8)]
    config = replace_scale(0.5)
    view = weak_view(replace(rows, pixels=torch.stack(ramps, dim=-1).expand(6, 16, 16, 3)), config, _generator(3))
    centers = torch.linspace(-1 + 1 / 16, 1 - 1 / 16, 16)
    grid_y, grid_x = torch.meshgrid(centers, centers, indexing="ij")
    points = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)])
    expected = 128 * (torch.einsum("bij,jhw->bihw", view.geometry, points) + 1) - 8
    inside = slice(2, -2)  # at a crop's border, what lies outside it plays no part
    seen = _levels(view.frame)[:, :2]
    torch.testing.assert_close(seen[:, :, inside, inside], expected[:, :, inside, inside], atol=1.01, rtol=0)


def replace_scale(scale: float) -> AugmentConfig:
    """Weak views that crop and flip, nothing else."""
    return STILL.model_copy(update={"weak_scale": scale, "flip": 0.5})


@pytest.mark.parametrize("scale", [0.3, 0.9, 1.0])
def test_crops_keep_to_their_range(scale: float) -> None:
    """Sides lie in [scale, 1] and use the range, crops lie inside the frame on whole pixels, half are mirrored."""
    geometry = random_geometry(4000, 40, scale, 0.5, _generator())
    side = geometry[:, 1, 1]
    length = 40 * side
    torch.testing.assert_close(length, length.round(), atol=1e-4, rtol=0)
    assert sorted({round(n) for n in length.tolist()}) == list(range(round(40 * scale), 41))
    torch.testing.assert_close(geometry[:, 0, 0].abs(), side)
    corners = 20 * (torch.cat([geometry[:, :, 2] - side[:, None], geometry[:, :, 2] + side[:, None]], dim=1) + 1)
    torch.testing.assert_close(corners, corners.round(), atol=1e-4, rtol=0)
    assert int(corners.min().round()) == 0
    assert int(corners.max().round()) == 40
    assert geometry[:, 0, 1].abs().max() == geometry[:, 1, 0].abs().max() == 0
    torch.testing.assert_close(geometry[:, :, 2].mean(0), torch.zeros(2), atol=0.02, rtol=0)
    assert float((geometry[:, 0, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    assert (random_geometry(50, 40, scale, 0.0, _generator())[:, 0, 0] > 0).all()
    assert (random_geometry(50, 40, scale, 1.0, _generator())[:, 0, 0] < 0).all()


def test_the_weak_view_leaves_the_sound_alone() -> None:
    """Labelers hear the sound as it is; students hear it with bands blanked."""
    rows = _rows()
    weak, strong = weak_view(rows, STRONG, _generator()), strong_view(rows, STRONG, _generator())
    assert torch.equal(weak.features["mel"], rows.features["mel"])
    assert weak.waveform is rows.waveform
    assert not torch.equal(strong.features["mel"], rows.features["mel"])


def test_no_strength_is_the_plain_view() -> None:
    """With every strength at nothing, weak and strong views are the rows themselves."""
    rows = _rows()
    plain = plain_view(rows)
    assert torch.equal(plain.frame, rows.frame)
    assert plain.mask is rows.mask
    for view in (weak_view(rows, STILL, _generator()), strong_view(rows, STILL, _generator())):
        assert view.mask is not None
        torch.testing.assert_close(view.frame, plain.frame, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(view.mask, rows.mask, atol=1e-4, rtol=0)
        torch.testing.assert_close(view.geometry, plain.geometry)
        assert torch.equal(view.features["mel"], rows.features["mel"])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_spectrogram_loses_at_most_its_share(share: float) -> None:
    """One band of frequencies and one of frames get the row's mean, neither above its share; the rest is untouched."""
    features = torch.rand(400, 1, 20, 40, generator=_generator(1)) + 1
    masked = mask_spectrogram(features, share, _generator())
    blank = masked == features.mean((1, 2, 3), keepdim=True)
    assert torch.equal(masked[~blank], features[~blank])
    bands, frames = blank.all(3)[:, 0], blank.all(2)[:, 0]
    assert torch.equal(blank[:, 0], bands[:, :, None] | frames[:, None, :])
    for lines, length in ((bands, 20), (frames, 40)):
        assert lines.sum(1).max() <= round(share * length)
        assert lines.sum(1).max() > 0.8 * share * length - 1
        edges = (lines.int().diff(dim=1) != 0).sum(1) + lines[:, 0].int() + lines[:, -1].int()
        assert edges.max() <= 2, "one band each"
        # Every place is reached.
        assert lines.any(0).all()


def test_color_changes_what_it_says() -> None:
    """Contrast, brightness and saturation, written out for each row; noise has its standard deviation."""
    frames = torch.rand(4, 3, 8, 8, generator=_generator(2))
    color = random_color(4, 0.4, _generator(5))
    changed = recolor(frames, color, 0.0, _generator())
    for row, (contrast, brightness, saturation) in enumerate(color.T.tolist()):
        x = frames[row].double().numpy()
        y = (x - x.mean()) * contrast + x.mean() + brightness - 1
        gray = y.mean(0, keepdims=True)
        np.testing.assert_allclose(changed[row].numpy(), gray + (y - gray) * saturation, atol=1e-5)
    noisy = recolor(torch.zeros(4, 3, 32, 32), torch.ones(3, 4), 0.3, _generator())
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.05)
    assert float(noisy.mean()) == pytest.approx(0, abs=0.02)


def test_colors_use_their_range() -> None:
    """Each factor is uniform in 1 ± strength, on its own."""
    color = random_color(4000, 0.4, _generator())
    assert color.shape == (3, 4000)
    assert 0.6 <= float(color.min()) < 0.61
    assert 1.39 < float(color.max()) <= 1.4
    torch.testing.assert_close(color.mean(1), torch.ones(3), atol=0.02, rtol=0)
    assert torch.corrcoef(color).fill_diagonal_(0).abs().max() < 0.06


def test_the_generators_state_decides_every_view() -> None:
    """Equal states give equal views, other states others; the global generator plays no part."""
    rows = _rows()
    unlabeled = replace(rows, mask=None)
    steps = []
    for seed, world in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(world)
        steps.append(make_views(rows, unlabeled, STRONG, n_strong=2, weak=True, generator=_generator(seed)))
    views = []
    for step in steps:
        assert step.unlabeled is not None
        assert step.unlabeled.weak is not None
        views.append([*step.labeled.strong, *step.unlabeled.strong, step.unlabeled.weak])
        assert len(views[-1]) == 5
        # Nor is any view of a step another one's copy.
        assert not any(torch.equal(a.frame, b.frame) for k, a in enumerate(views[-1]) for b in views[-1][k + 1 :])
    assert all(_same(a, b) for a, b in zip(views[0], views[1], strict=True))
    assert not any(_same(a, b) for a, b in zip(views[0], views[2], strict=True))


def test_views_are_those_asked_for() -> None:
    """No weak view where there is no labeler, no unlabeled views without rows, masks on labeled rows alone."""
    rows = _rows()
    step = make_views(rows, replace(rows, mask=None), STRONG, n_strong=1, weak=False, generator=_generator())
    assert len(step.labeled.strong) == 1
    assert step.labeled.weak is None
    assert step.labeled.strong[0].mask is not None
    assert step.unlabeled is not None
    assert step.unlabeled.weak is None
    assert step.unlabeled.strong[0].mask is None
    assert make_views(rows, None, STRONG, n_strong=1, weak=True, generator=_generator()).unlabeled is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"flip": 1.1}, "augment.flip 1.1"),
        ({"strong_scale": 0}, "augment.strong_scale 0"),
        ({"spec_mask": 1}, "augment.spec_mask 1"),
        ({"noise": -0.1}, "augment.noise"),
        ({"blur": 1}, "augment.blur flip"),
    ],
)
def test_bad_settings_name_the_key(section: dict[str, float], message: str) -> None:
    """Out of range or unknown: the key is named."""
    with pytest.raises(ConfigError, match=facts(message)):
        AugmentConfig.read(section, "augment")


def test_views_of_kept_outputs_are_the_frame_or_its_mirror_image() -> None:
    """With the mask in the same geometry and SpecAugment on spectrograms alone; the plain view is the frame's."""
    rows = _rows(40)
    assert rows.mask is not None
    stages = torch.stack([rows.mask, rows.mask.flip(2)], 1)[:, :, None].half()
    kept = replace(
        rows,
        pixels=torch.empty(40, 0, 0, 3, dtype=torch.uint8),
        seen={"image": (stages,)},
        heard={"sound": (stages[:, 0, 0, 0],)},
    )
    weak, strong = weak_view(kept, STRONG, _generator(1)), strong_view(kept, STRONG, _generator(2))
    for view in (weak, strong):
        mirrored = view.geometry[:, 0, 0] == -1
        assert 8 < int(mirrored.sum()) < 32
        assert view.mask is not None
        torch.testing.assert_close(view.seen["image"][0][:, 0], view.mask)
        torch.testing.assert_close(warp(rows.mask[:, None], view.geometry)[:, 0], view.mask)
        torch.testing.assert_close(view.heard["sound"][0], rows.mask[:, 0])
    assert torch.equal(weak.features["mel"], rows.features["mel"])
    assert not torch.equal(strong.features["mel"], rows.features["mel"])
    torch.testing.assert_close(plain_view(kept).seen["image"][0][:, 0], rows.mask)
    semi = make_views(kept, kept, STRONG, n_strong=2, weak=True, generator=_generator(3))
    assert semi.unlabeled is not None
    assert join(semi.labeled.strong[0], semi.unlabeled.strong[1]).seen["image"][0].shape == (80, 1, 32, 32)
