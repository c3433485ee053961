"""FNAC as an objective: the published terms, a loop over their formulas, and that no gradient is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avsl.functional.contrastive import Pooling
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.objectives.fnac import FNAC, FNACConfig
from avsl.types import AVOutput

Array = NDArray[np.float64]
MakeOutput = Callable[..., AVOutput]
Draw = Callable[..., tuple[Tensor, Tensor]]
# Which two relations each term compares.
SIDES = {"fns_audio": ("heard", "scored"), "tns": ("heard", "sounding"), "fns_image": ("seen", "scored")}


def _config(pooling: Pooling = "max", **weights: float) -> FNACConfig:
    """Soft enough that no row's softmax is one-sided; weights not given are 0."""
    settings = dict.fromkeys((f"{term}_weight" for term in SIDES), 0.0) | weights
    return FNACConfig.read(
        settings | {"temperature": 0.3, "pooling": pooling, "topk": 2, "warmup_steps": 10}, "objective.fnac"
    )


def _score(visual: Array, audio: Array, config: FNACConfig) -> float:
    cells = np.sort(np.tensordot(audio, visual, 1).ravel())
    if config.pooling == "max":
        return float(cells[-1])
    if config.pooling == "topk":
        return float(cells[-config.topk :].mean())
    return float(config.sharpness * np.log(np.exp(cells / config.sharpness).mean()))


def _relations(visual: Array, audio: Array, config: FNACConfig) -> dict[str, Array]:
    """The four relations' row-wise softmaxes, entry by entry."""
    pairs = len(visual)
    foreground, mean = [], []
    for i in range(pairs):
        own = np.tensordot(audio[i], visual[i], 1)
        stretched = (own - own.min()) / (own.max() - own.min())
        foreground.append((visual[i] * (stretched > config.foreground_threshold)).sum((1, 2)) / own.size)
        mean.append(visual[i].sum((1, 2)) / own.size)
    relations = {name: np.zeros((pairs, pairs)) for name in ("heard", "scored", "sounding", "seen")}
    for i in range(pairs):
        for j in range(pairs):
            relations["heard"][i, j] = audio[i] @ audio[j]
            relations["scored"][i, j] = _score(visual[i], audio[j], config)
            relations["sounding"][i, j] = foreground[i] @ foreground[j]
            relations["seen"][i, j] = mean[i] @ mean[j]
    for matrix in relations.values():
        for i in range(pairs):
            odds = np.exp(matrix[i] / config.temperature)
            matrix[i] = odds / odds.sum()
    return relations


def _distance(first: Array, second: Array) -> float:
    return float(sum(abs(a - b) for a, b in zip(first.flat, second.flat, strict=True)) / first.size)


def _contrastive(visual: Array, audio: Array, config: FNACConfig) -> float:
    pairs, total = len(visual), 0.0
    scores = [[_score(visual[i], audio[j], config) / config.temperature for j in range(pairs)] for i in range(pairs)]
    for i in range(pairs):
        total += math.log(sum(math.exp(scores[i][j]) for j in range(pairs))) - scores[i][i]
        total += math.log(sum(math.exp(scores[j][i]) for j in range(pairs))) - scores[i][i]
    return total / pairs


@pytest.mark.reference
def test_terms_are_the_published_ones(published: dict[str, Tensor], make_output: MakeOutput) -> None:
    """The four terms on the published inputs, to 1e-4, and their weighted sum after the warm-up."""
    config = FNACConfig()
    assert config.temperature == pytest.approx(float(published["tau"]))
    terms = FNAC(config)([make_output((published["visual"], published["audio"]))], config.warmup_steps)
    expected = {name: published[f"fnac_{name}"] for name in ("contrastive", "fns_audio", "tns", "fns_image")}
    assert terms.parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms.parts[name], value, rtol=1e-4, atol=0)
    total = expected["contrastive"] + 100 * sum(expected[name] for name in SIDES)
    torch.testing.assert_close(terms.total, total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("pooling", ["max", "topk", "logsumexp"])
def test_terms_are_what_the_loop_says(pooling: Pooling, draw: Draw, make_output: MakeOutput) -> None:
    """Each term entry by entry, for every pooling, and each with its own weight in the sum."""
    visual, audio = draw(0)
    weights = {"fns_audio": 2.0, "tns": 30.0, "fns_image": 400.0}
    config = _config(pooling, **{f"{name}_weight": weight for name, weight in weights.items()})
    terms = FNAC(config)([make_output((visual, audio))], 10)
    relations = _relations(visual.numpy(), audio.numpy(), config)
    expected = {name: _distance(relations[first], relations[second]) for name, (first, second) in SIDES.items()}
    contrastive = _contrastive(visual.numpy(), audio.numpy(), config)
    assert dict(terms.parts) == pytest.approx(expected | {"contrastive": contrastive}, rel=1e-9)
    total = contrastive + sum(weights[name] * value for name, value in expected.items())
    assert float(terms.total) == pytest.approx(total, rel=1e-9)
    assert not any(part.requires_grad for part in terms.parts.values())


@pytest.mark.parametrize("term", SIDES)
@pytest.mark.parametrize("pooling", ["max", "topk"])
def test_no_gradient_is_stopped(
    term: str, pooling: Pooling, draw: Draw, make_output: MakeOutput, numeric_gradient: Callable[..., list[Array]]
) -> None:
    """A term's gradient is the sum of what comes through its one relation and through its other; neither is 0."""
    embeddings = draw(1, 3)
    arrays = [tensor.numpy().copy() for tensor in embeddings]
    config = _config(pooling, **{f"{term}_weight": 1.0})
    totals = [
        FNAC(config)([make_output(tuple(t.requires_grad_() for t in embeddings))], step).total for step in (9, 10)
    ]
    gradients = torch.autograd.grad(totals[1] - totals[0], embeddings, allow_unused=True)
    first, second = SIDES[term]
    still = _relations(arrays[0], arrays[1], config)
    through_first = numeric_gradient(lambda v, a: _distance(_relations(v, a, config)[first], still[second]), *arrays)
    through_second = numeric_gradient(lambda v, a: _distance(still[first], _relations(v, a, config)[second]), *arrays)
    for side in (through_first, through_second):
        assert max(float(np.abs(gradient).max()) for gradient in side) > 1e-2
    for gradient, one, other in zip(gradients, through_first, through_second, strict=True):
        np.testing.assert_allclose(gradient.numpy(), one + other, rtol=1e-5, atol=1e-7)


def test_until_the_warm_up_ends_it_is_ezvsl(draw: Draw, make_output: MakeOutput) -> None:
    """The same loss and gradient to the bit; from the step after it, another."""
    shared = {"temperature": 0.2, "pooling": "topk", "topk": 3}
    visual, audio = draw(2)
    visual.requires_grad_()
    output = make_output((visual, audio))
    plain = EZVSL(EZVSLConfig.read(shared, "objective.ezvsl"))([output], 0).total
    objective = FNAC(FNACConfig.read(shared | {"warmup_steps": 4}, "objective.fnac"))
    for step in (0, 3):
        total = objective([output], step).total
        torch.testing.assert_close(total, plain, rtol=0, atol=0)
        for gradient, expected in zip(
            torch.autograd.grad(total, visual, retain_graph=True),
            torch.autograd.grad(plain, visual, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    assert objective([output], 4).total > plain + 0.1


def test_limits_of_the_terms(make_output: MakeOutput) -> None:
    """Relations that agree cost nothing; a map without contrast has no foreground, so nothing is alike there."""
    sounds = torch.eye(4)
    everywhere = sounds[:, :, None, None].expand(-1, -1, 2, 3)
    parts = FNAC(_config())([make_output((everywhere, sounds))], 10).parts
    assert float(parts["fns_audio"]) == pytest.approx(0, abs=1e-6)
    assert float(parts["fns_image"]) == pytest.approx(0, abs=1e-6)
    alike = math.exp(1 / 0.3)
    row = [abs(alike / (alike + 3) - 1 / 4), *[abs(1 / (alike + 3) - 1 / 4)] * 3]
    assert float(parts["tns"]) == pytest.approx(sum(row) / 4, rel=1e-5)
