"""Audio-visual similarity and the contrastive losses built on it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["max", "logsumexp", "topk"]


def similarity_maps(visual: Tensor, audio: Tensor) -> Tensor:
    """S of each pair: cosine of (B, C, h, w) normalized visual and (B, C) audio embeddings, (B, h, w) in [-1, 1]."""
    return torch.einsum("bchw,bc->bhw", visual, audio)


def all_similarity_maps(visual: Tensor, audio: Tensor) -> Tensor:
    """S of every image with every sound: (B, A, h, w)."""
    return (audio @ visual.flatten(2)).view(len(visual), len(audio), *visual.shape[-2:])


def pool_similarity(maps: Tensor, pooling: Pooling, *, topk: int = 8, sharpness: float = 0.1) -> Tensor:
    """Reduce similarity maps (..., h, w) to a score of each pair (...).

    Args:
        maps: cosine similarities.
        pooling: ``max`` as published (EZ-VSL, ECCV 2022, arXiv 2203.09324, eq. 3); ``topk``, the mean of the highest
            cells; ``logsumexp``, a soft maximum. The last two reach more cells than one, which learning from random
            weights needs.
        topk: cells that ``topk`` averages; all of them where the map has fewer.
        sharpness: temperature of ``logsumexp``.
    """
    cells = maps.flatten(-2)
    if pooling == "max":
        return cells.amax(-1)
    if pooling == "topk":
        return cells.topk(min(topk, cells.shape[-1]), dim=-1, sorted=False).values.mean(-1)
    return sharpness * (torch.logsumexp(cells / sharpness, dim=-1) - math.log(cells.shape[-1]))


def symmetric_info_nce(scores: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of (B, B) pair scores in both directions, summed; row i's partner is column i."""
    logits = scores / temperature
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def log_soft_mask(maps: Tensor, threshold: float, temperature: float) -> Tensor:
    """The log of sigmoid((S − ε) / T), a soft threshold at ε; of −S and −ε the log of what lies below ε."""
    return F.logsigmoid((maps - threshold) / temperature)


def masked_mean(maps: Tensor, log_mask: Tensor) -> Tensor:
    """Σ m · S / Σ m over the cells of (..., h, w) maps, (...).

    The mask comes as its logarithm: the mean is then finite and exact even where every m would be rounded to 0.
    """
    return (log_mask.flatten(-2).softmax(-1) * maps.flatten(-2)).sum(-1)


def foreground_mask(maps: Tensor, threshold: float) -> Tensor:
    """1[min-max of S > θ], (..., h, w) in {0, 1}, written without the division; a constant map has no foreground."""
    above = maps - maps.amin((-2, -1), keepdim=True)
    return (above > threshold * above.amax((-2, -1), keepdim=True)).to(maps.dtype)


def relation_gap(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean |softmax(first / τ) − softmax(second / τ)| of two (B, B) matrices, each row a distribution."""
    return F.l1_loss((first / temperature).softmax(1), (second / temperature).softmax(1))


def joint_scores(correspondence: Tensor, localization: Tensor, temperature: float) -> Tensor:
    """The log of Σ_cells p(sound | image, cell) · p(cell | image, sound), (B, A), from two sets of (B, A, h, w) maps.

    The first is a softmax of ``correspondence`` / τ over sounds, the second one of ``localization`` / τ over cells.
    """
    sound = (correspondence.flatten(2) / temperature).log_softmax(1)
    cell = (localization.flatten(2) / temperature).log_softmax(2)
    return (sound + cell).logsumexp(2)
