"""Similarity maps, pooling and the pair loss against loops and the published numbers."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from tests.fixtures.reference import LoadReference
from torch import Tensor
from torch.nn import functional as F

from avsl.functional.contrastive import (
    Pooling,
    all_similarity_maps,
    pool_similarity,
    similarity_maps,
    symmetric_info_nce,
)

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def _embeddings(seed: int = 0, pairs: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    visual = F.normalize(torch.randn(pairs, 5, 3, 4, generator=generator, dtype=torch.float64), dim=1)
    return visual, F.normalize(torch.randn(pairs, 5, generator=generator, dtype=torch.float64), dim=1)


def _loop_maps(visual: Tensor, audio: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    v, a = visual.numpy(), audio.numpy()
    maps = np.zeros((len(v), len(a), *v.shape[2:]))
    for image in range(len(v)):
        for sound in range(len(a)):
            for y in range(v.shape[2]):
                for x in range(v.shape[3]):
                    maps[image, sound, y, x] = sum(v[image, c, y, x] * a[sound, c] for c in range(v.shape[1]))
    return maps


def _loop_pool(cells: list[float], pooling: Pooling, topk: int, sharpness: float) -> float:
    if pooling == "max":
        return max(cells)
    if pooling == "topk":
        highest = sorted(cells, reverse=True)[:topk]
        return sum(highest) / len(highest)
    return sharpness * math.log(sum(math.exp(cell / sharpness) for cell in cells) / len(cells))


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> dict[str, Tensor]:
    """The arrays of contrastive_losses.npz."""
    return load_reference("contrastive_losses.npz")


@pytest.mark.reference
def test_maps_and_loss_are_the_published_ones(published: dict[str, Tensor]) -> None:
    """EZ-VSL's cosine maps over τ and its loss on their spatial maximum, to 1e-4."""
    visual, audio, tau = published["visual"], published["audio"], float(published["tau"])
    maps = similarity_maps(visual, audio)
    torch.testing.assert_close(maps / tau, published["maps"], rtol=1e-4, atol=1e-4)
    scores = pool_similarity(all_similarity_maps(visual, audio), "max")
    torch.testing.assert_close(symmetric_info_nce(scores, tau), published["ezvsl_loss"], rtol=1e-4, atol=0)


def test_maps_are_what_the_loop_says() -> None:
    """Every image with every sound; the pairs' own maps are the diagonal."""
    visual, audio = _embeddings()
    expected = _loop_maps(visual, audio)
    np.testing.assert_allclose(all_similarity_maps(visual, audio).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(similarity_maps(visual, audio).numpy(), expected[range(4), range(4)], atol=1e-12)
    np.testing.assert_allclose(all_similarity_maps(visual, audio[:2]).numpy(), expected[:, :2], atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("topk", "sharpness"), [(1, 0.1), (5, 0.03), (100, 2.0)])
def test_pooling_is_what_the_loop_says(pooling: Pooling, topk: int, sharpness: float) -> None:
    """Each pooling of each pair's cells, written out."""
    maps = all_similarity_maps(*_embeddings(1))
    pooled = pool_similarity(maps, pooling, topk=topk, sharpness=sharpness)
    assert pooled.shape == (4, 4)
    for image in range(4):
        for sound in range(4):
            expected = _loop_pool(maps[image, sound].flatten().tolist(), pooling, topk, sharpness)
            assert float(pooled[image, sound]) == pytest.approx(expected, abs=1e-9)


def test_limits_of_the_poolings() -> None:
    """The highest one cell is the maximum, all cells the mean; a soft maximum sharpens to the maximum."""
    maps = all_similarity_maps(*_embeddings(2))
    top = pool_similarity(maps, "max")
    torch.testing.assert_close(pool_similarity(maps, "topk", topk=1), top)
    torch.testing.assert_close(pool_similarity(maps, "topk", topk=12), maps.mean((-2, -1)))
    errors = [float((pool_similarity(maps, "logsumexp", sharpness=s) - top).abs().max()) for s in (1.0, 0.1, 1e-4)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 1e-4 * math.log(12) + 1e-12
    torch.testing.assert_close(
        pool_similarity(maps, "logsumexp", sharpness=1e4), maps.mean((-2, -1)), atol=1e-3, rtol=0
    )


def test_pair_loss_is_what_the_loop_says() -> None:
    """−log softmax at the partner, over sounds and over images, each a mean over pairs, summed."""
    scores = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 0.0
    for i in range(5):
        row = sum(math.exp(float(scores[i, j]) / 0.2) for j in range(5))
        column = sum(math.exp(float(scores[j, i]) / 0.2) for j in range(5))
        expected += (math.log(row) + math.log(column) - 2 * float(scores[i, i]) / 0.2) / 5
    assert float(symmetric_info_nce(scores, 0.2)) == pytest.approx(expected, rel=1e-9)


def test_pair_loss_knows_neither_order_nor_side() -> None:
    """Permuted pairs and exchanged modalities have the same loss; equal scores have that of a blind guess."""
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    loss = symmetric_info_nce(scores, 0.1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(symmetric_info_nce(scores[order][:, order], 0.1), loss)
    torch.testing.assert_close(symmetric_info_nce(scores.T, 0.1), loss)
    assert float(symmetric_info_nce(torch.zeros(6, 6), 0.1)) == pytest.approx(2 * math.log(6))
    assert float(symmetric_info_nce(torch.eye(6), 0.01)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradient_is_the_finite_difference(pooling: Pooling) -> None:
    """The loss's gradient with respect to both embeddings, in double precision."""
    visual, audio = (tensor.requires_grad_() for tensor in _embeddings(4, pairs=3))

    def loss(v: Tensor, a: Tensor) -> Tensor:
        return symmetric_info_nce(pool_similarity(all_similarity_maps(v, a), pooling, topk=3), 0.3)

    assert torch.autograd.gradcheck(loss, (visual, audio), eps=1e-7, atol=1e-4)
