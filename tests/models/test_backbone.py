"""Backbones: networks of every timm family pass frames and spectrograms of any size, or are refused in one sentence."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import timm
import torch
from torch import nn

from avsl.models.backbone import make_backbone, make_feature_network
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.models.spectrogram import SpectrogramEncoder, SpectrogramEncoderConfig
from avsl.schema import ConfigError

# Small members: heads wider than the trunk, channels last, tokens, inputs of one size, sides that 32 must divide.
QUICK = (
    *("test_byobnet", "test_convnext", "mobilenetv3_small_050", "lcnet_035", "test_vit", "tiny_vit_5m_224"),
    *("test_efficientnet", "swin_tiny_patch4_window7_224", "hrnet_w18_small", "resnet10t"),
)
SIZES = re.compile("(test_)|([aef].*to_)|(pico|nano|xxs)|(00[25])|(tiny)|(small)|(lite|18|26)")
LARGE = {"deepseek_vit", "gemma4_vit", "mobilenetv5", "naflexvit", "qwen3_vit", "vision_transformer_sam"}  # from 80 M


def _smallest(family: str) -> str:
    """A small member, by what sizes are called."""
    names = timm.list_models(module=family)
    found = {name: SIZES.search(name) for name in names}
    return min(names, key=lambda name: (((match := found[name]) and match.lastindex) or 99, len(name), name))


def _check(name: str) -> None:
    """Frames and sounds pass, and their gradient reaches the network, or one sentence names it."""
    refusals = []
    encoders: list[tuple[Any, Any, tuple[int, ...]]] = [
        (ImageEncoder, ImageEncoderConfig(backbone=name, stages=(1,)), (2, 3, 64, 64)),
        (SpectrogramEncoder, SpectrogramEncoderConfig(backbone=name), (2, 1, 64, 51)),
    ]
    for make, config, shape in encoders:
        try:
            encoder: nn.Module = make(config, 8).eval()
        except ConfigError as error:
            refusals.append(str(error))
            continue
        output = encoder(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
        embedding = output if isinstance(output, torch.Tensor) else output.embedding
        assert embedding.shape[:2] == (2, 8)
        assert embedding.ndim == (4 if shape[1] == 3 else 2)
        embedding.sum().backward()
        assert any(p.grad is not None for key, p in encoder.named_parameters() if key.startswith("backbone."))
    assert all(f"'{name}'" in refusal and "\n" not in refusal for refusal in refusals)
    if name in QUICK:
        assert refusals == []


@pytest.mark.parametrize("name", QUICK)
def test_kinds_of_networks_pass(name: str) -> None:
    """Both as image and as sound encoder."""
    _check(name)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({*timm.list_modules()} - LARGE))
def test_every_family_passes_or_is_refused(family: str) -> None:
    """One small member each."""
    if not timm.list_models(module=family):
        pytest.skip("has no network")
    _check(_smallest(family))


def test_a_copy_resizes_its_inputs_too() -> None:
    """An average's copy of a network with one input size passes the same frames to the same maps."""
    network, widths = make_feature_network("model.image", "test_vit", "", out_indices=(1,))
    assert len(widths) == 1
    frames = torch.rand(1, 3, 72, 56)
    (maps,), (copied,) = network.eval()(frames), copy.deepcopy(network)(frames)
    assert torch.equal(maps, copied)
    assert maps.shape[1] == widths[0]


def test_channels_last_become_first() -> None:
    """A step to the right in the frame is one along the last axis of the maps."""
    torch.manual_seed(0)
    network, (width,) = make_feature_network("model.image", "swin_tiny_patch4_window7_224", "", out_indices=(0,))
    frames = torch.zeros(1, 3, 64, 96)
    frames[..., 32:40, 80:88] = 5
    with torch.no_grad():
        change = (network.eval()(frames)[0] - network(torch.zeros_like(frames))[0]).abs().sum(1)[0]
    assert (width, change.shape) == (96, (16, 24))
    y, x = divmod(int(change.argmax()), 24)
    assert 8 <= y < 10
    assert 20 <= x < 22


@pytest.mark.parametrize(
    ("name", "settings"), [("resnet99", {}), ("resnet10t", {"widht": 3}), ("test_vit", {"out_indices": (77,)})]
)
def test_what_cannot_be_built_is_refused(name: str, settings: dict[str, Any]) -> None:
    """An unknown name, an unknown setting, a map it does not have."""
    with pytest.raises(ConfigError, match=rf"^model\.image: '{name}' [^\n]*$"):
        make_backbone("model.image", name, features_only=True, **settings)
