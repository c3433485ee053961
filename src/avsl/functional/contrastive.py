"""Audio-visual similarity and the contrastive losses on it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["max", "logsumexp", "topk"]


def similarity_maps(visual: Tensor, audio: Tensor) -> Tensor:
    """The cosine map S of each image with its sound.

    Shape: visual (B, C, h, w), audio (B, C), both L2-normalized over C -> (B, h, w) in [-1, 1].

    Examples:
        >>> visual = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # two cells with orthogonal embeddings
        >>> similarity_maps(visual, audio=torch.tensor([[1.0, 0.0]]))
        tensor([[[1., 0.]]])
    """
    return torch.einsum("bchw,bc->bhw", visual, audio)


def all_similarity_maps(visual: Tensor, audio: Tensor) -> Tensor:
    """The cosine maps S of every image with every sound.

    Shape: visual (B, C, h, w), audio (A, C) -> (B, A, h, w).
    """
    return (audio @ visual.flatten(2)).view(len(visual), len(audio), *visual.shape[-2:])


def pool_similarity(maps: Tensor, pooling: Pooling, *, topk: int = 8, sharpness: float = 0.1) -> Tensor:
    """Reduce similarity maps (..., h, w) to a score of each pair (...).

    Args:
        maps: cosine similarities.
        pooling: ``max`` as published (EZ-VSL, ECCV 2022, arXiv 2203.09324, eq. 3); ``topk``, the mean of the highest
            cells; ``logsumexp``, a soft maximum. The last two give several cells a gradient, which training from random
            weights needs.
        topk: number of cells that ``topk`` averages, at most all of them.
        sharpness: temperature of ``logsumexp``.

    Examples:
        >>> maps = torch.tensor([[[0.1, 0.3], [0.5, 0.9]]])
        >>> pool_similarity(maps, "max"), pool_similarity(maps, "topk", topk=2)
        (tensor([0.9000]), tensor([0.7000]))
    """
    cells = maps.flatten(-2)
    if pooling == "max":
        return cells.amax(-1)
    if pooling == "topk":
        return cells.topk(min(topk, cells.shape[-1]), dim=-1, sorted=False).values.mean(-1)
    return sharpness * (torch.logsumexp(cells / sharpness, dim=-1) - math.log(cells.shape[-1]))


def negative_weights(recording: Tensor | None, like: Tensor) -> Tensor:
    """The log of what each negative counts: row j's as one of row i's, to be added to the logits at (i, j).

    The own pair counts 1, another row of the own recording nothing, and all rows of any other recording together 1.
    Where each row has another recording, as published code assumes, all are 0.

    Args:
        recording: (B,) int64; None where each row has another.
        like: its type and device are the result's.

    Returns:
        (B, B), or () where ``recording`` is None; the lowest values are finite, as sums of -inf have no gradient.
    """
    if recording is None:
        return like.new_zeros(())
    same = recording[:, None] == recording
    weights = -same.sum(0).to(like.dtype).log().expand(same.shape)
    return weights.masked_fill(same, torch.finfo(like.dtype).min / 4).fill_diagonal_(0)


def symmetric_info_nce(scores: Tensor, temperature: float, recording: Tensor | None = None) -> Tensor:
    """The sum of the cross-entropies of (B, B) pair scores in both directions; the positive of row i is column i.

    Rows of one ``recording``, (B,), are no negatives of each other, see `negative_weights`.

    Examples:
        >>> symmetric_info_nce(torch.eye(2), temperature=1.0)
        tensor(0.6265)
    """
    logits, weights = scores / temperature, negative_weights(recording, scores)
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits + weights, target) + F.cross_entropy(logits.T + weights, target)


def log_soft_mask(maps: Tensor, threshold: float, temperature: float) -> Tensor:
    """The log of the soft threshold sigmoid((S − ε) / T); of −S and −ε it is the log of the complement."""
    return F.logsigmoid((maps - threshold) / temperature)


def masked_mean(maps: Tensor, log_mask: Tensor) -> Tensor:
    """Σ m · S / Σ m over the cells of (..., h, w) maps, (...).

    The logarithm of the mask keeps the mean finite and exact where every m would underflow to 0.
    """
    return (log_mask.flatten(-2).softmax(-1) * maps.flatten(-2)).sum(-1)


def foreground_mask(maps: Tensor, threshold: float) -> Tensor:
    """1[min-max of S > θ], (..., h, w) in {0, 1}; a constant map has no foreground.

    Examples:
        >>> foreground_mask(torch.tensor([[0.2, 0.4, 1.0]]), threshold=0.5)
        tensor([[0., 0., 1.]])
    """
    # (S - min) > θ (max - min) avoids a division by zero.
    above = maps - maps.amin((-2, -1), keepdim=True)
    return (above > threshold * above.amax((-2, -1), keepdim=True)).to(maps.dtype)


def relation_gap(first: Tensor, second: Tensor, temperature: float, recording: Tensor | None = None) -> Tensor:
    """Mean |softmax(first / τ) − softmax(second / τ)| of two (B, B) matrices, each row a distribution.

    Rows of one ``recording``, (B,), have no relation to each other: `negative_weights`. The mean is over the rows and,
    of each, over the recordings.
    """
    weights = negative_weights(recording, first)
    gap = F.l1_loss((first / temperature + weights).softmax(1), (second / temperature + weights).softmax(1))
    if recording is None:
        return gap
    recordings = (recording[:, None] == recording).sum(0).to(gap.dtype).reciprocal().sum()
    return gap * (len(recording) / recordings)


def joint_scores(
    correspondence: Tensor, localization: Tensor, temperature: float, recording: Tensor | None = None
) -> Tensor:
    """The log of Σ_cells p(sound | image, cell) · p(cell | image, sound), (B, B), from two sets of (B, B, h, w) maps.

    The first is a softmax of ``correspondence`` / τ over sounds, the second one of ``localization`` / τ over cells.
    Sounds of an image's own ``recording``, (B,), but the own one have no share in the first: `negative_weights`.
    """
    weights = negative_weights(recording, correspondence).unsqueeze(-1)
    sound = (correspondence.flatten(2) / temperature + weights).log_softmax(1)
    cell = (localization.flatten(2) / temperature).log_softmax(2)
    return (sound + cell).logsumexp(2)
