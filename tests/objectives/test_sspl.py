"""SSPL as an objective: the published pooling and loss, a loop over both, its gradients and limits, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fixtures.messages import facts
from tests.fixtures.reference import LoadReference
from torch import Tensor
from torch.nn import functional as F

from avsl.frameworks.branch import Branch
from avsl.functional.contrastive import similarity_maps
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives.sspl import SSPL, SSPLConfig, attention, attention_pool, simsiam_loss
from avsl.schema import ConfigError
from avsl.types import AVOutput, Head

Array = NDArray[np.float64]
NumericGradient = Callable[..., list[Array]]
SMALL = SSPLConfig(dim=5, hidden=12, bottleneck=4)


def _output(features: Tensor, audio: Tensor) -> AVOutput:
    head = Head(F.normalize(features, dim=1), F.normalize(audio, dim=1))
    return AVOutput((head,), torch.zeros_like(features[:, 0]), features)


def _draw(seed: int, pairs: int = 6) -> tuple[Tensor, Tensor]:
    """Features on a 2 x 3 grid and sounds, neither normalized, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    features = 3 * torch.randn(pairs, 5, 2, 3, generator=generator, dtype=torch.float64)
    return features, torch.randn(pairs, 5, generator=generator, dtype=torch.float64)


def _objective(seed: int = 0) -> SSPL:
    torch.manual_seed(seed)
    return SSPL(SMALL).double()


def _norm(rows: Array, weight: Array | None = None, bias: Array | None = None) -> Array:
    """Batch-norm in training mode."""
    out: Array = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    return out if weight is None or bias is None else out * weight + bias


def _pooled(features: Array, audio: Array) -> Array:
    """Attention pooling, cell by cell."""
    pooled = np.zeros(features.shape[:2])
    for i, grid in enumerate(features):
        cells = grid.reshape(len(grid), -1).T
        cosines = [cell @ audio[i] / np.linalg.norm(cell) / np.linalg.norm(audio[i]) for cell in cells]
        for cell, cosine in zip(cells, cosines, strict=True):
            pooled[i] += cell * (cosine - min(cosines)) / (max(cosines) - min(cosines) + 1e-10)
    return pooled


def _loss(objective: SSPL, views: list[tuple[Array, Array]], targets: list[Array] | None = None) -> float:
    """The loss written out, against fixed ``targets`` where they are given."""
    state = {name: tensor.detach().numpy() for name, tensor in objective.state_dict().items()}
    z, p = [], []
    for features, audio in views:
        x = _pooled(features, audio)
        for k in (0, 3):
            x = x @ state[f"projector.{k}.weight"].T
            norm = f"projector.{k + 1}"
            x = np.maximum(_norm(x, state[f"{norm}.weight"], state[f"{norm}.bias"]), 0)
        z.append(_norm(x @ state["projector.6.weight"].T))
        hidden = z[-1] @ state["predictor.0.weight"].T
        hidden = np.maximum(_norm(hidden, state["predictor.1.weight"], state["predictor.1.bias"]), 0)
        p.append(hidden @ state["predictor.3.weight"].T + state["predictor.3.bias"])
    total = 0.0
    for prediction, target in zip(p, reversed(targets or z), strict=True):
        for a, b in zip(prediction, target, strict=True):
            total -= a @ b / np.linalg.norm(a) / np.linalg.norm(b) / len(prediction) / 2
    return total


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> dict[str, Tensor]:
    """The arrays of sspl.npz."""
    return load_reference("sspl.npz")


@pytest.mark.reference
def test_the_loss_is_the_published_one(published: dict[str, Tensor]) -> None:
    """Symmetrised negative cosine of the published code's predictions and projections."""
    loss = simsiam_loss(*(published[name] for name in ("p1", "p2", "z1", "z2")))
    torch.testing.assert_close(loss, published["simsiam_loss"], rtol=1e-4, atol=0)


@pytest.mark.reference
def test_attention_is_the_published_one(published: dict[str, Tensor]) -> None:
    """The similarity's minimum is 0 in the attention map and its maximum 1, as in the published code."""
    torch.testing.assert_close(attention(published["similarity"]), published["attention"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_what_the_loop_says(seed: int) -> None:
    """Cosines, attention, sum over the grid, both networks in training mode and the loss, written out."""
    objective = _objective(seed)
    views = [_draw(10 + seed), _draw(20 + seed)]
    terms = objective([_output(*view) for view in views], 0)
    expected = _loss(objective, [(features.numpy(), audio.numpy()) for features, audio in views])
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-9)
    assert float(terms.parts["predictive"]) == pytest.approx(expected, rel=1e-9)
    assert not terms.parts["predictive"].requires_grad


def test_gradients_are_those_of_fixed_targets(numeric_gradient: NumericGradient) -> None:
    """Features and sounds learn through prediction and attention; through the targets nothing does."""
    objective = _objective()
    arrays = [tensor.numpy() for tensor in (*_draw(1, 4), *_draw(2, 4))]
    with torch.no_grad():
        pairs = [(torch.from_numpy(arrays[k]), torch.from_numpy(arrays[k + 1])) for k in (0, 2)]
        targets = [
            objective.projector(attention_pool(output.features, similarity_maps(output.visual, output.audio))).numpy()
            for output in (_output(*pair) for pair in pairs)
        ]
    inputs = [torch.from_numpy(array).requires_grad_() for array in arrays]
    objective([_output(*inputs[:2]), _output(*inputs[2:])], 0).total.backward()
    expected = numeric_gradient(lambda *x: _loss(objective, [(x[0], x[1]), (x[2], x[3])], targets), *arrays)
    for tensor, gradient in zip(inputs, expected, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-6)
        assert np.abs(gradient).max() > 1e-3


def test_no_gradient_reaches_the_targets() -> None:
    """Stop-gradient: predictions learn, projections as targets do not."""
    generator = torch.Generator().manual_seed(0)
    p1, p2, z1, z2 = (torch.randn(4, 8, generator=generator).requires_grad_() for _ in range(4))
    simsiam_loss(p1, p2, z1, z2).backward()  # type: ignore[no-untyped-call]  # torch's own
    assert p1.grad is not None
    assert p2.grad is not None
    assert p1.grad.abs().min() > 0
    assert p2.grad.abs().min() > 0
    assert z1.grad is None
    assert z2.grad is None


def test_views_may_change_places() -> None:
    """The loss is symmetric in the views and does not depend on the order of rows or on a mirrored grid."""
    objective, first, second = _objective(), _output(*_draw(3)), _output(*_draw(4))
    loss = objective([first, second], 0).total
    torch.testing.assert_close(objective([second, first], 0).total, loss)
    order = torch.tensor([3, 1, 4, 0, 2, 5])
    shuffled = [_output(view.features[order].flip(-1), view.audio[order]) for view in (first, second)]
    torch.testing.assert_close(objective(shuffled, 0).total, loss)


def test_attention_does_not_depend_on_level_or_scale() -> None:
    """Stretched per map to [0, 1]; nowhere attended means nothing pooled; the pooled features keep their scale."""
    features, audio = _draw(5)
    output = _output(features, audio)
    similarity = similarity_maps(output.visual, output.audio)
    maps = attention(similarity)
    torch.testing.assert_close(maps.amin((-2, -1)), torch.zeros(6).double())
    torch.testing.assert_close(maps.amax((-2, -1)), torch.ones(6).double())
    torch.testing.assert_close(attention(0.1 * similarity + 0.5), maps)
    torch.testing.assert_close(attention_pool(2 * features, similarity), 2 * attention_pool(features, similarity))
    constant = torch.full_like(similarity, 0.3)
    assert torch.equal(attention_pool(features, constant), torch.zeros_like(audio))


def test_what_always_says_the_same_is_a_perfect_prediction() -> None:
    """The collapse that stop-gradient is there to avoid gives -1; the opposite gives 1, right angles 0."""
    same = torch.ones(4, 8)
    assert float(simsiam_loss(same, same, same, same)) == pytest.approx(-1)
    assert float(simsiam_loss(same, same, -same, -3 * same)) == pytest.approx(1)
    across = torch.tensor([1.0, -1.0]).repeat(4, 4)
    assert float(simsiam_loss(same, across, same, across)) == pytest.approx(0, abs=1e-6)


def test_steps_lower_the_loss_and_the_head_has_its_own_rate(tiny: LocalizerConfig) -> None:
    """In a branch the localizer and the head are trained, the head at ``lr_scale`` times the rate."""
    torch.manual_seed(0)
    objective = SSPL(SMALL.model_copy(update={"dim": tiny.dim, "lr_scale": 4.0}))
    branch = Branch(Localizer(tiny), objective)
    own = {id(parameter) for parameter in objective.parameters()}
    for group in branch.param_groups():
        assert {id(parameter) in own for parameter in group["params"]} == {group["lr_scale"] == 4.0}
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, tiny.dim, 4, 4, generator=generator).requires_grad_()
    audio = torch.randn(8, tiny.dim, generator=generator)
    other = _output(torch.randn(8, tiny.dim, 4, 4, generator=generator), audio)
    optimizer = torch.optim.Adam([features, *objective.parameters()], lr=1e-2)
    losses = []
    for step in range(10):
        loss = objective([_output(features, audio), other], step).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2


def test_the_published_head_is_the_default() -> None:
    """On two views of one pair of embeddings."""
    published = SSPL(SSPLConfig())
    assert (published.needs.views, published.needs.heads, published.needs.momentum) == (2, 1, None)
    assert published.needs.lr_scale == 2.5
    shapes = [tuple(p.shape) for p in published.parameters() if p.ndim > 1]
    assert shapes == [(2048, 512), (2048, 2048), (2048, 2048), (512, 2048), (2048, 512)]


def test_features_of_another_width_name_the_key() -> None:
    """A head that does not fit the model is one sentence, not an error of a matrix product."""
    view = _output(torch.randn(4, 7, 2, 2), torch.randn(4, 7))
    with pytest.raises(ConfigError, match=facts("objective.sspl.dim 5 7")):
        SSPL(SMALL)([view, view], 0)
