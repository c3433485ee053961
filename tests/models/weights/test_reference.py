"""Pretrained encoders give the outputs of pretrained.npz."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.fixtures.reference import Arrays, LoadReference
from torch import Tensor

from avsl.functional.image import MEAN, STD
from avsl.models.aisfx import AiSFXEncoder, AiSFXEncoderConfig
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.models.soundnet import SoundNetEncoder, SoundNetEncoderConfig
from avsl.models.weights.pretrained import cached

pytestmark = pytest.mark.reference


def _weights(name: str) -> str:
    if not cached(name).is_file():
        pytest.skip(f"weights are absent: avsl weights get {name}")
    return name


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> Arrays:
    """The outputs, and the inputs that their seed gives."""
    arrays = load_reference("pretrained.npz")
    rng = np.random.default_rng(int(arrays["seed"]))
    draws = {"frames": (-1, 1, (2, 3, 160, 160)), "mels": (0, 1, (2, 100, 96)), "waveform": (-0.5, 0.5, (2, 66150))}
    return arrays | {
        name: torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))
        for name, (low, high, shape) in draws.items()
    }


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_efficientnet_lite0(published: Arrays) -> None:
    """Class scores, and the maps at strides 8 to 32 of frames that come with ImageNet's levels."""
    name = _weights("efficientnet_lite0")
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(load_file(cached(name)))
    _close(classifier(published["frames"]), published["effnet_logits"])
    config = ImageEncoderConfig(backbone="tf_efficientnet_lite0", stages=(2, 3, 4), weights=name)
    encoder = ImageEncoder(config, 8).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    frames = ((published["frames"] + 1) / 2 - mean) / std
    found: list[Tensor] = []
    encoder.backbone.register_forward_hook(lambda _, __, maps: found.extend(maps))
    assert encoder(frames).shape == (2, 8, 20, 20)
    for stride, maps in zip((8, 16, 32), found, strict=True):
        assert maps.shape[-1] == 160 // stride
        _close(maps.mean((-2, -1)), published[f"effnet_{stride}"])


@torch.no_grad()
def test_aisfx(published: Arrays) -> None:
    """The code of a spectrogram, time first."""
    encoder = AiSFXEncoder(AiSFXEncoderConfig(weights=_weights("aisfx")), 8).eval()
    _close(encoder(published["mels"][:, None]).code, published["aisfx"])


@torch.no_grad()
def test_soundnet(published: Arrays) -> None:
    """The codes of the fifth and the seventh layer; the front end multiplies by 256."""
    encoder = SoundNetEncoder(SoundNetEncoderConfig(weights=_weights("soundnet"), sample_rate=22050), 8).eval()
    code = encoder(encoder.front_end(published["waveform"])).code
    _close(code[:, :256], published["soundnet_5"])
    _close(code[:, 256:], published["soundnet_7"])
