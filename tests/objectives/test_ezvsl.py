"""EZ-VSL as an objective: the published loss, its invariances, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.types import AVOutput, Head


def _output(visual: Tensor, audio: Tensor) -> AVOutput:
    return AVOutput((Head(visual, audio),), torch.zeros(len(visual), *visual.shape[-2:]), visual)


def _random(seed: int = 0, pairs: int = 5) -> AVOutput:
    generator = torch.Generator().manual_seed(seed)
    visual = F.normalize(torch.randn(pairs, 8, 4, 4, generator=generator), dim=1)
    return _output(visual, F.normalize(torch.randn(pairs, 8, generator=generator), dim=1))


@pytest.mark.reference
def test_the_defaults_give_the_published_loss(published: dict[str, Tensor]) -> None:
    """The published code's loss on its own inputs, to 1e-4; its temperature is the default."""
    assert EZVSLConfig().temperature == pytest.approx(float(published["tau"]))
    loss = EZVSL(EZVSLConfig())([_output(published["visual"], published["audio"])], 0).total
    torch.testing.assert_close(loss, published["ezvsl_loss"], rtol=1e-4, atol=0, check_dtype=False)


@pytest.mark.parametrize("settings", [{}, {"pooling": "topk", "topk": 3}, {"pooling": "logsumexp", "sharpness": 0.2}])
def test_loss_is_what_the_loop_says(settings: dict[str, object]) -> None:
    """Scores, temperature and both cross-entropies written out, for every pooling."""
    config = EZVSLConfig.read(settings | {"temperature": 0.2}, "objective.ezvsl")
    output = _random()
    visual, audio = output.visual.double().numpy(), output.audio.double().numpy()
    scores = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            cells = np.sort(np.tensordot(audio[j], visual[i], 1).ravel())
            if config.pooling == "max":
                scores[i, j] = cells[-1]
            elif config.pooling == "topk":
                scores[i, j] = cells[-3:].mean()
            else:
                scores[i, j] = 0.2 * np.log(np.exp(cells / 0.2).mean())
    odds = np.exp(scores / 0.2)
    right = odds.diagonal()
    expected = -np.log(right / odds.sum(0)).mean() - np.log(right / odds.sum(1)).mean()
    terms = EZVSL(config)([output], 0)
    assert float(terms.total) == pytest.approx(expected, rel=1e-4)
    assert float(terms.parts["contrastive"]) == pytest.approx(expected, rel=1e-4)
    assert not terms.parts["contrastive"].requires_grad


def test_mismatched_sounds_raise_the_loss() -> None:
    """Above a blind guess's; pairs that match are below it."""
    objective, output = EZVSL(EZVSLConfig()), _random(1)
    matched = _output(output.audio[:, :, None, None].expand(-1, -1, 4, 4), output.audio)
    mismatched = _output(matched.visual, output.audio.roll(1, 0))
    assert objective([matched], 0).total < math.log(5) < objective([mismatched], 0).total


def test_the_gradient_moves_matching_cells_together() -> None:
    """Both embeddings get a gradient, and a small step against it lowers the loss."""
    output = _random(2)
    visual, audio = output.visual.requires_grad_(), output.audio.requires_grad_()
    objective = EZVSL(EZVSLConfig(temperature=0.2))
    loss = objective([_output(visual, audio)], 0).total
    loss.backward()
    assert visual.grad is not None
    assert audio.grad is not None
    with torch.no_grad():
        after = objective([_output(visual - 1e-2 * visual.grad, audio - 1e-2 * audio.grad)], 0).total
    assert after < loss
