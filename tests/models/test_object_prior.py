"""The object prior: an ImageNet network's activation, from weights in a local file."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures.messages import facts
from torch import nn

from avsl.models import ObjectPrior, ObjectPriorConfig
from avsl.schema import ConfigError


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """A small classifier with random weights, norms among them."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet10t", num_classes=5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.weight)
    return network.eval()


@pytest.fixture(scope="module")
def weights(classifier: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights in a file."""
    path = tmp_path_factory.mktemp("weights") / "imagenet.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, path)
    return path


@torch.no_grad()
def test_frames_come_with_the_levels_that_its_weights_want(weights: Path) -> None:
    """A prior of other levels sees what one of ImageNet's levels sees in frames brought to those levels."""
    frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    imagenet = ObjectPriorConfig(weights=str(weights), backbone="resnet10t")
    other = imagenet.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    mean, std = (torch.tensor(x)[:, None, None] for x in (imagenet.mean, imagenet.std))
    found = ObjectPrior(other)((frames - mean) / std)
    torch.testing.assert_close(found, ObjectPrior(imagenet)((frames - 0.5) / 0.5), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_is_the_mean_absolute_activation_of_the_last_stage(classifier: nn.Module, weights: Path) -> None:
    """With the file's weights, in training mode too, and never trained."""
    prior = ObjectPrior(ObjectPriorConfig(weights=str(weights), backbone="resnet10t")).train()
    frames = torch.randn(2, 3, 64, 96)
    features = classifier.forward_features(frames)  # type: ignore[operator]
    expected = sum(features[:, c].abs() for c in range(features.shape[1])) / features.shape[1]
    assert expected.shape == (2, 2, 3)
    torch.testing.assert_close(prior(frames), expected)
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_weights_that_cannot_be_used_are_named(weights: Path, tmp_path: Path) -> None:
    """No file, not all of the network, or no weights at all: the key and the file are named."""
    with pytest.raises(ConfigError, match=facts("evaluate.ogl.weights nowhere.safetensors")):
        ObjectPrior(ObjectPriorConfig(weights="nowhere.safetensors", backbone="resnet10t"))
    other = tmp_path / "other.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if name != "bn1.weight"}, other)
    with pytest.raises(ConfigError, match=facts("evaluate.ogl.weights other.safetensors 'bn1.weight'")):
        ObjectPrior(ObjectPriorConfig(weights=str(other), backbone="resnet10t"))
    with pytest.raises(ConfigError, match=facts("evaluate.ogl.weights")):
        ObjectPriorConfig.read({}, "evaluate.ogl")
    with pytest.raises(ConfigError, match=r"^key 'evaluate\.ogl\.alpha' = 1\.5: "):
        ObjectPriorConfig.read({"weights": "w", "alpha": 1.5}, "evaluate.ogl")
