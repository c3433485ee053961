"""SSPL's predictive coding module: the published one on the published inputs, on any grid, and what it learns from."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from tests.fixtures.reference import FillReference, LoadReference
from torch import Tensor
from torch.nn import functional as F

from avsl.functional.contrastive import similarity_maps
from avsl.models.coding import PredictiveCoding, PredictiveCodingConfig
from avsl.objectives.sspl import attention, attention_pool

SMALL = PredictiveCodingConfig(cycles=2, width=6)


def _our_name(theirs: str) -> str:
    """What a tensor of the published module is called here; its norms for the cycles come after the first ones."""
    match theirs.split("."):
        case ["PredProcess", "0", kind]:
            return f"predict_code.{kind}"
        case ["PredProcess", k, *_, kind]:
            return f"predict.{int(k) - 1}.{kind}"
        case ["ErrorProcess", "3", kind]:
            return f"output.{kind}"
        case ["ErrorProcess", k, *_, kind]:
            return f"correct.{k}.{kind}"
        case ["b0", k]:
            return f"down.{k}"
        case ["a0", k]:
            return f"up.{k}"
        case ["BNPred", k, kind]:
            return f"norm_down.{k}.{kind}"
        case ["BNPred_step", k, kind]:
            return f"norm_down.{int(k) + 2}.{kind}"
        case ["BNError", k, kind]:
            return f"norm_up.{k}.{kind}"
        case ["BNError_step", k, kind]:
            return f"norm_up.{int(k) + 3}.{kind}"
    raise KeyError(theirs)


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> dict[str, Tensor]:
    """The arrays of sspl.npz."""
    return load_reference("sspl.npz")


@pytest.fixture
def module(published: Mapping[str, Tensor], fill_reference: FillReference) -> PredictiveCoding:
    """The published size with the weights that the arrays were made with."""
    state = fill_reference("sspl_pcm", int(published["seed"]))
    coding = PredictiveCoding(PredictiveCodingConfig(), 512, 128)
    coding.load_state_dict({_our_name(name): tensor for name, tensor in state.items()})
    return coding


@pytest.mark.reference
@pytest.mark.parametrize(("training", "tolerance"), [(False, 1e-4), (True, 1e-3)])
def test_the_defaults_are_the_published_module(
    published: dict[str, Tensor], module: PredictiveCoding, training: bool, tolerance: float
) -> None:
    """Its output on the published inputs, with batch-norm in evaluation and in training mode."""
    expected = published["pcm_train" if training else "pcm_eval"]
    with torch.no_grad():
        aligned = module.train(training)(published["visual"], published["audio"])[:, ::16]
    scale = float(expected.abs().max())
    torch.testing.assert_close(aligned, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.reference
def test_what_the_objective_pools_of_it_is_the_published(
    published: dict[str, Tensor], module: PredictiveCoding
) -> None:
    """Similarity with the projected sound, its attention map and the pooled, unnormalized features."""
    with torch.no_grad():
        aligned = module.eval()(published["visual"], published["audio"])
    audio = F.normalize(published["audio_projected"], dim=1)
    similarity = similarity_maps(F.normalize(aligned, dim=1), audio)
    torch.testing.assert_close(similarity, published["similarity"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention(similarity), published["attention"], rtol=1e-4, atol=1e-4)
    pooled = published["pooled"]
    torch.testing.assert_close(
        attention_pool(aligned, similarity), pooled, rtol=1e-4, atol=1e-4 * float(pooled.abs().max())
    )


def _small(seed: int = 0) -> PredictiveCoding:
    torch.manual_seed(seed)
    return PredictiveCoding(SMALL, 5, 3)


def _inputs(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 5, *size, generator=generator), torch.randn(3, 3, generator=generator)


@pytest.mark.parametrize("size", [(14, 14), (16, 16), (7, 10), (4, 4), (9, 6)])
def test_it_keeps_the_grid(size: tuple[int, int]) -> None:
    """Even, odd and oblong grids, down to four cells a side, come out as they went in."""
    visual, code = _inputs(*size)
    aligned = _small()(visual, code)
    assert aligned.shape == visual.shape
    assert torch.isfinite(aligned).all()


def test_it_depends_on_what_is_heard_and_on_its_own_row_alone() -> None:
    """Another sound aligns the same frame differently; in evaluation mode a row is what it is on its own."""
    module = _small().eval()
    visual, code = _inputs(8, 8)
    with torch.no_grad():
        aligned = module(visual, code)
        torch.testing.assert_close(module(visual[:1], code[:1]), aligned[:1], rtol=1e-4, atol=1e-6)
        assert (module(visual, code.roll(1, 0)) - aligned).abs().amax((1, 2, 3)).min() > 1e-4


def test_every_parameter_learns_and_so_do_frame_and_sound() -> None:
    """The gradient reaches the visual features, the code and every weight and rate."""
    module = _small()
    visual, code = (tensor.requires_grad_() for tensor in _inputs(8, 8))
    (module(visual, code) * torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(2))).sum().backward()
    learning = {"visual": visual, "code": code} | dict(module.named_parameters())
    still = [name for name, p in learning.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_half_precision_differs_by_its_rounding_alone() -> None:
    """Under bf16 autocast, as the embedded set trains, with features of either precision; gradients come through."""
    visual, code = _inputs(8, 8)
    module = _small().eval()
    exact = module(visual, code)
    for kind in (torch.bfloat16, torch.float32):
        features = visual.to(kind).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(features, code)
        torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
        rounded.float().square().sum().backward()
        assert features.grad is not None
        assert torch.isfinite(features.grad).all()


def test_a_rate_below_zero_acts_as_zero() -> None:
    """Learned rates may fall below 0 and then neither replace nor correct anything, however far below."""
    visual, code = _inputs(8, 8)
    outputs = []
    for rate in (0.0, -0.1, -5.0, 0.5):
        module = _small().eval()
        with torch.no_grad():
            for parameter in (*module.down, *module.up):
                parameter.fill_(rate)
            outputs.append(module(visual, code))
    assert torch.equal(outputs[1], outputs[0])
    assert torch.equal(outputs[2], outputs[0])
    assert not torch.allclose(outputs[3], outputs[0], atol=1e-3)


def test_more_cycles_have_norms_of_their_own() -> None:
    """Cycles share weights and rates; of two modules that differ in cycles alone only norms differ."""
    short = set(PredictiveCoding(SMALL, 5, 3).state_dict())
    long = set(PredictiveCoding(SMALL.model_copy(update={"cycles": 4}), 5, 3).state_dict())
    assert short < long
    assert all(name.startswith(("norm_down.", "norm_up.")) for name in long - short)
