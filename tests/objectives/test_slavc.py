"""SLAVC as an objective: the published loss, a loop over its formula, and what its momentum encoders get."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avsl.frameworks.branch import Branch
from avsl.functional.contrastive import similarity_maps
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives.slavc import SLAVC, SLAVCConfig
from avsl.types import AVBatch, AVOutput

Array = NDArray[np.float64]
MakeOutput = Callable[..., AVOutput]
Draw = Callable[..., tuple[Tensor, Tensor]]
SOFT = SLAVCConfig(temperature=0.3)


def _reference(online: list[Array], target: list[Array], tau: float) -> list[float]:
    """Both cross-entropies, written out; each side is first visual, first audio, second visual, second audio."""
    losses = []
    for image, sound in ((online, target), (target, online)):
        pairs, total = len(image[0]), 0.0
        for n in range(pairs):
            first = np.array([np.tensordot(sound[1][m], image[0][n], 1).ravel() for m in range(pairs)]) / tau
            second = np.array([np.tensordot(sound[3][m], image[2][n], 1).ravel() for m in range(pairs)]) / tau
            weight = np.zeros(pairs)
            for m in range(pairs):
                for x in range(first.shape[1]):
                    which = math.exp(first[m, x]) / sum(math.exp(first[k, x]) for k in range(pairs))
                    where = math.exp(second[m, x]) / sum(math.exp(value) for value in second[m])
                    weight[m] += which * where
            total -= math.log(weight[n] / weight.sum())
        losses.append(total / pairs)
    return losses


@pytest.fixture
def embeddings(draw: Draw) -> tuple[list[Tensor], list[Tensor]]:
    """Online and momentum embeddings of three pairs, each as `_reference` takes them."""
    return [*draw(0, 3), *draw(1, 3)], [*draw(2, 3), *draw(3, 3)]


@pytest.fixture
def joined(make_output: MakeOutput) -> Callable[[list[Tensor], list[Tensor]], AVOutput]:
    """Makes the output of two sides."""

    def join(online: list[Tensor], target: list[Tensor]) -> AVOutput:
        momentum = make_output((target[0], target[1]), (target[2], target[3]))
        return make_output((online[0], online[1]), (online[2], online[3]), momentum=momentum)

    return join


Joined = Callable[[list[Tensor], list[Tensor]], AVOutput]


@pytest.mark.reference
def test_loss_and_maps_are_the_published_ones(published: dict[str, Tensor], joined: Joined) -> None:
    """On the published inputs, to 1e-4; the maps are the mean of the heads' similarities over τ."""
    online = [published[f"slavc_{name}"] for name in ("v1", "a1", "v2", "a2")]
    target = [published[f"slavc_{name}_m"] for name in ("v1", "a1", "v2", "a2")]
    tau = float(published["tau"])
    assert SLAVCConfig().temperature == pytest.approx(tau)
    output = joined(online, target)
    loss = SLAVC(SLAVCConfig())([output], 0).total
    torch.testing.assert_close(loss, published["slavc_loss"], rtol=1e-4, atol=0)
    maps = torch.stack([similarity_maps(head.visual, head.audio) for head in output.heads]).mean(0) / tau
    torch.testing.assert_close(maps, published["slavc_maps"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [0.03, 0.3])
def test_loss_is_what_the_loop_says(tau: float, embeddings: tuple[list[Tensor], list[Tensor]], joined: Joined) -> None:
    """Both softmaxes and both directions, one pair and one cell at a time."""
    online, target = embeddings
    terms = SLAVC(SLAVCConfig(temperature=tau))([joined(online, target)], 0)
    image, sound = _reference([t.numpy() for t in online], [t.numpy() for t in target], tau)
    assert float(terms.total) == pytest.approx(image + sound, rel=1e-9)
    assert float(terms.parts["image_to_sound"]) == pytest.approx(image, rel=1e-9)
    assert float(terms.parts["sound_to_image"]) == pytest.approx(sound, rel=1e-9)
    assert not any(part.requires_grad for part in terms.parts.values())


def test_gradient_is_the_finite_difference(
    embeddings: tuple[list[Tensor], list[Tensor]], joined: Joined, numeric_gradient: Callable[..., list[Array]]
) -> None:
    """Of the loop, in the four embeddings that are trained."""
    online, target = embeddings
    loss = SLAVC(SOFT)([joined([tensor.requires_grad_() for tensor in online], target)], 0).total
    gradients = torch.autograd.grad(loss, online)
    fixed = [tensor.numpy() for tensor in target]
    expected = numeric_gradient(
        lambda *trained: sum(_reference(list(trained), fixed, SOFT.temperature)),
        *(tensor.detach().numpy() for tensor in online),
    )
    for gradient, difference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), difference, rtol=1e-5, atol=1e-7)


def test_momentum_encoders_get_no_gradient(tiny: LocalizerConfig, make_view: Callable[..., AVBatch]) -> None:
    """In the branch that its needs describe, both encoders are trained and their momentum copies are not."""
    torch.manual_seed(0)
    objective = SLAVC(SLAVCConfig(temperature=0.3, momentum=0.9))
    model = Localizer(tiny.model_copy(update={"heads": objective.needs.heads}))
    branch = Branch(model, objective)
    outputs = branch([make_view(4, 0)])
    torch.autograd.backward(branch.contrastive(outputs, 0).total)
    assert branch.momentum is not None
    assert all(p.grad is None and not p.requires_grad for p in branch.momentum.parameters())
    trained = [p for name, p in model.named_parameters() if name.startswith(("image.", "audio."))]
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained)


@pytest.mark.parametrize("exported", [False, True])
def test_needs_follow_the_configuration(exported: bool) -> None:
    """Two heads, the momentum that is set, and which encoders are exported."""
    needs = SLAVC(SLAVCConfig(momentum=0.5, momentum_inference=exported)).needs
    assert (needs.views, needs.heads, needs.momentum, needs.momentum_inference) == (1, 2, 0.5, exported)
    assert SLAVC(SLAVCConfig()).needs.momentum == 0.999


def test_exchanged_heads_change_the_loss(embeddings: tuple[list[Tensor], list[Tensor]], joined: Joined) -> None:
    """Each has its own softmax."""
    objective, (online, target) = SLAVC(SOFT), embeddings
    loss = objective([joined(online, target)], 0).total
    exchanged = [[*side[2:], *side[:2]] for side in (online, target)]
    assert abs(objective([joined(*exchanged)], 0).total - loss) > 1e-3


def test_limits_of_the_loss(joined: Joined) -> None:
    """Pairs that nothing tells apart have a blind guess's loss; pairs that match in one cell have next to none."""
    objective, sounds = SLAVC(SLAVCConfig()), torch.eye(4)
    same = [torch.ones(4, 4, 2, 3) / 2, torch.ones(4, 4) / 2] * 2
    assert float(objective([joined(same, same)], 0).total) == pytest.approx(2 * math.log(4), rel=1e-5)
    visual = -torch.ones(4, 4, 2, 3) / 2
    visual[:, :, 1, 2] = sounds
    right = [visual, sounds] * 2
    assert float(objective([joined(right, right)], 0).total) == pytest.approx(0, abs=1e-5)
    wrong = [visual, sounds.roll(1, 0)] * 2
    assert float(objective([joined(wrong, wrong)], 0).total) > 2 * math.log(4)


def test_an_output_that_lacks_something_is_refused(draw: Draw, make_output: MakeOutput) -> None:
    """Without momentum, or with one head."""
    objective, pair = SLAVC(SOFT), draw(0)
    with pytest.raises(ValueError, match="momentum"):
        objective([make_output(pair, pair)], 0)
    with pytest.raises(ValueError, match="unpack"):
        objective([make_output(pair, momentum=make_output(pair))], 0)
