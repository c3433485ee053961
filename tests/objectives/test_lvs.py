"""LVS as an objective: the published loss, a loop over its formula, its masks' limits, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avsl.functional.contrastive import log_soft_mask, similarity_maps
from avsl.objectives.lvs import LVS, LVSConfig
from avsl.types import AVOutput

Array = NDArray[np.float64]
MakeOutput = Callable[..., AVOutput]
Draw = Callable[..., tuple[Tensor, Tensor]]
# On random embeddings these leave all three kinds of cells and no logit alone decides.
SOFT = LVSConfig(positive_threshold=0.3, negative_threshold=0.1, mask_temperature=0.2, temperature=0.5)


def _reference(visual: Array, audio: Array, config: LVSConfig) -> float:
    """The mean cross-entropy, written out."""
    pairs, losses = len(visual), []

    def mean_over(cells: Array, mask: Array) -> float:
        return float((cells * mask).sum() / mask.sum())

    for i in range(pairs):
        scores = []
        for j in range(pairs):
            cells = np.tensordot(audio[j], visual[i], 1)
            score = mean_over(cells, 1 / (1 + np.exp(-(cells - config.positive_threshold) / config.mask_temperature)))
            scores.append(score)
        own = np.tensordot(audio[i], visual[i], 1)
        likely = 1 / (1 + np.exp(-(own - config.negative_threshold) / config.mask_temperature))
        negatives = [score * (-99 if j == i else 1) for j, score in enumerate(scores)]
        logits = [score / config.temperature for score in [scores[i], *negatives, mean_over(own, 1 - likely)]]
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[0])
    return sum(losses) / pairs


@pytest.mark.reference
def test_the_defaults_are_the_published_code(published: dict[str, Tensor], make_output: MakeOutput) -> None:
    """Maps, both masks, logits and loss on the published inputs, to 1e-4."""
    visual, audio = published["visual"], published["audio"]
    config = LVSConfig()
    maps = similarity_maps(visual, audio)
    torch.testing.assert_close(maps, published["lvs_maps"], rtol=1e-4, atol=1e-6)
    positive = log_soft_mask(maps, config.positive_threshold, config.mask_temperature).exp()
    torch.testing.assert_close(positive, published["lvs_pos"], rtol=1e-4, atol=1e-7)
    negative = log_soft_mask(-maps, -config.negative_threshold, config.mask_temperature).exp()
    torch.testing.assert_close(negative, published["lvs_neg"], rtol=1e-4, atol=1e-6)
    output = make_output((visual, audio))
    objective = LVS(config)
    scores = objective.scores(output) / config.temperature
    torch.testing.assert_close(scores, published["lvs_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(objective([output], 0).total, published["lvs_loss"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("config", [LVSConfig(), SOFT])
def test_loss_is_what_the_loop_says(config: LVSConfig, draw: Draw, make_output: MakeOutput) -> None:
    """Masks, negatives and cross-entropy, one pair at a time."""
    visual, audio = draw(0)
    terms = LVS(config)([make_output((visual, audio))], 0)
    expected = _reference(visual.numpy(), audio.numpy(), config)
    assert float(terms.total) == pytest.approx(expected, rel=1e-9)
    assert float(terms.parts["contrastive"]) == pytest.approx(expected, rel=1e-9)
    assert not terms.parts["contrastive"].requires_grad


def test_gradient_is_the_finite_difference(
    draw: Draw, make_output: MakeOutput, numeric_gradient: Callable[..., list[Array]]
) -> None:
    """Of the loop, in both embeddings: through the scores and through the masks."""
    visual, audio = draw(1, 3)
    loss = LVS(SOFT)([make_output((visual.requires_grad_(), audio.requires_grad_()))], 0).total
    gradients = torch.autograd.grad(loss, (visual, audio))
    expected = numeric_gradient(lambda v, a: _reference(v, a, SOFT), visual.detach().numpy(), audio.detach().numpy())
    for gradient, difference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), difference, rtol=1e-5, atol=1e-7)


def test_mismatched_sounds_raise_the_loss(draw: Draw, make_output: MakeOutput) -> None:
    """Of frames that match their sounds in one cell."""
    objective, (visual, audio) = LVS(SOFT), draw(2)
    matched = visual.clone()
    matched[:, :, 0, 0] = audio
    right = objective([make_output((matched, audio))], 0).total
    assert right < objective([make_output((matched, audio.roll(1, 0)))], 0).total


def test_the_own_pair_is_no_negative(draw: Draw, make_output: MakeOutput) -> None:
    """Where its score is positive its logit adds nothing to the loss; where it is negative it is a steep penalty."""
    visual, audio = draw(3)
    matched = visual.clone()
    matched[:, :, 0, 0] = audio
    objective = LVS(LVSConfig())
    output = make_output((matched, audio))
    scores = objective.scores(output)
    own = scores[:, 0]
    assert bool((own > 0.5).all())
    torch.testing.assert_close(scores[:, 1:-1].diagonal(), -99 * own)
    rest = torch.ones_like(scores, dtype=torch.bool)
    rest[:, 1:-1].fill_diagonal_(False)
    kept = scores[rest].view(len(scores), -1) / objective.config.temperature
    without = (kept.logsumexp(1) - kept[:, 0]).mean()
    torch.testing.assert_close(objective([output], 0).total, without)
    opposed = make_output((-audio[:, :, None, None].expand_as(visual), audio))
    assert float(objective([opposed], 0).total) > 99 / objective.config.temperature


def test_masks_that_round_to_nothing_leave_the_loss_finite(make_output: MakeOutput) -> None:
    """A map of ones has no background, a map of −1 no source: float32 masks are all 0 or next to it there."""
    audio = torch.eye(3)
    for sign in (1, -1):
        visual = (sign * audio)[:, :, None, None].expand(-1, -1, 2, 2).clone().requires_grad_()
        objective = LVS(LVSConfig(mask_temperature=0.005))
        loss = objective([make_output((visual, audio))], 0).total
        (gradient,) = torch.autograd.grad(loss, visual)
        assert bool(loss.isfinite())
        assert bool(gradient.isfinite().all())
        assert gradient.abs().sum() > 0
