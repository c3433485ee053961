"""The localizer: confidences that are absolute, sounds heard cached or not, and encoders built as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures.messages import facts
from torch import nn
from torch.nn import functional as F

from avsl.config.compose import compose
from avsl.models import Localizer, LocalizerConfig, LocalizerEnsemble, average
from avsl.models.front_ends import LogMel, LogMelConfig
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.schema import ConfigError
from avsl.types import AVBatch

ROOT = Path(__file__).resolve().parents[2]


class MakeView(Protocol):
    """Draws a view of some rows (tests/conftest.py)."""

    def __call__(self, rows: int, seed: int, *, mask: bool = False, sound: bool = False) -> AVBatch:
        """The view."""
        ...


@pytest.fixture
def model(tiny: LocalizerConfig) -> Localizer:
    """The tiny localizer in evaluation mode."""
    torch.manual_seed(0)
    return Localizer(tiny).eval()


@torch.no_grad()
def test_confidence_is_absolute(model: Localizer, make_view: MakeView) -> None:
    """P = sigmoid(scale · cos + offset) of the row itself: in [0, 1], and silent frames may stay silent."""
    view = make_view(4, 0)
    output = model(view)
    visual, audio = output.visual.double().numpy(), output.audio.double().numpy()
    np.testing.assert_allclose((visual**2).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose((audio**2).sum(1), 1, atol=1e-5)
    cosine = (visual * audio[:, :, None, None]).sum(1)
    expected = 1 / (1 + np.exp(-(10 * cosine - 2)))
    np.testing.assert_allclose(output.confidence.numpy(), expected, atol=1e-4)
    assert output.confidence.shape == (4, 8, 8)
    alone = model(replace(view, frame=view.frame[:1], features={k: f[:1] for k, f in view.features.items()}))
    torch.testing.assert_close(alone.confidence, output.confidence[:1], atol=1e-5, rtol=0)
    model.offset.fill_(-20.0)
    assert model(view).confidence.max() < 1e-3
    model.log_scale.fill_(math.log(1e4))
    extreme = model(view).confidence
    assert extreme.min() >= 0
    assert extreme.max() <= 1


@torch.no_grad()
def test_a_cached_spectrogram_is_heard_like_its_waveform(model: Localizer, make_view: MakeView) -> None:
    """The front end's output, computed before, gives the same maps; another key's does not count."""
    view = make_view(3, 0, sound=True)
    assert view.waveform is not None
    front_end = model.audio.front_end
    cached = replace(view, waveform=None, features={front_end.key: front_end(view.waveform)})
    torch.testing.assert_close(model(cached).logits, model(view).logits)
    with pytest.raises(ValueError, match=facts(f"waveform '{front_end.key}'")):
        model(replace(cached, features={"another": cached.features[front_end.key]}))


@torch.no_grad()
def test_the_sound_decides(model: Localizer, make_view: MakeView) -> None:
    """The same frame with another sound has another map."""
    view, other = make_view(2, 0, sound=True), make_view(2, 1, sound=True)
    assert not torch.allclose(model(view).logits, model(replace(view, waveform=other.waveform)).logits, atol=1e-2)


def test_log_mel_does_not_depend_on_the_level() -> None:
    """Standardized per clip: zero mean, unit variance, the same at half and a tenth of the level."""
    waveform = torch.rand(2, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    front_end = LogMel(LogMelConfig(n_mels=32))
    features = front_end(waveform)
    assert features.shape == (2, 1, 32, 51)
    torch.testing.assert_close(features.mean((-2, -1)), torch.zeros(2, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std((-2, -1)), torch.ones(2, 1), atol=1e-3, rtol=0)
    for level in (0.5, 0.1):
        torch.testing.assert_close(front_end(level * waveform), features, atol=0.02, rtol=0)
    assert torch.isfinite(front_end(torch.zeros(1, 8000))).all()


def test_front_ends_that_hear_differently_have_different_keys() -> None:
    """A cache made for one front end is not taken for another's."""
    changes: list[dict[str, Any]] = [{}, {"sample_rate": 8000}, {"n_fft": 1024}, {"hop_length": 320}, {"n_mels": 40}]
    keys = {LogMel(LogMelConfig.read(change, "front_end")).key for change in changes}
    assert len(keys) == len(changes)


def test_predict_takes_pictures_as_they_are(model: Localizer) -> None:
    """uint8 RGB is normalized with ImageNet's statistics; several members' confidences are averaged."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    waveforms = torch.from_numpy(rng.uniform(-0.5, 0.5, (2, 4000)).astype(np.float32))
    normal = (frames / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    batch = AVBatch(
        frame=torch.from_numpy(normal.transpose(0, 3, 1, 2)).float(),
        waveform=waveforms,
        features={},
        index=torch.arange(2),
        geometry=torch.eye(2, 3).expand(2, 2, 3),
    )
    with torch.no_grad():
        expected = model(batch).confidence
    one = LocalizerEnsemble([model]).predict(torch.from_numpy(frames), waveforms)
    torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(LocalizerEnsemble([model, model]).predict(torch.from_numpy(frames), waveforms), one)


def test_averages_are_on_the_finest_grid() -> None:
    """The mean of maps; a coarser one is enlarged."""
    fine, coarse = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.full((2, 2, 2), 0.5)
    torch.testing.assert_close(average([fine, fine + 1]), fine + 0.5)
    torch.testing.assert_close(average([coarse, fine]), (fine + 0.5) / 2)


def test_the_tiny_model_maps_at_a_quarter_of_the_frame() -> None:
    """``model=tiny`` sees a 64 px frame on a 16 x 16 grid."""
    config = compose(["model=tiny"], ROOT).model
    ensemble = LocalizerEnsemble([Localizer(config)]).eval()
    maps = ensemble.predict(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1, 16000))
    assert maps.shape == (1, 16, 16)
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1


def test_merged_stages_add_the_coarser_map_to_the_finest(tiny: LocalizerConfig) -> None:
    """With the finer stage's lateral at zero, the result is the coarser one enlarged."""
    encoder = ImageEncoder(tiny.image, 4).eval()
    finer = encoder.lateral[0]
    assert isinstance(finer, nn.Conv2d)
    nn.init.zeros_(finer.weight)
    assert finer.bias is not None
    nn.init.zeros_(finer.bias)
    with torch.no_grad():
        merged = encoder(torch.randn(1, 3, 32, 32))
    coarse = merged[..., ::2, ::2]
    assert merged.shape == (1, 4, 8, 8)
    torch.testing.assert_close(merged, F.interpolate(coarse, scale_factor=2, mode="nearest"))
    assert coarse.std() > 0


@pytest.fixture
def weights(tiny: LocalizerConfig, tmp_path: Path) -> Path:
    """Backbone weights in a file, as timm names them."""
    torch.manual_seed(7)
    settings = tiny.image.model_copy(update={"stages": (4,)})
    state: Mapping[str, torch.Tensor] = ImageEncoder(settings, 4).backbone.state_dict()
    path = tmp_path / "backbone.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def test_local_weights_are_loaded(tiny: LocalizerConfig, weights: Path) -> None:
    """Every tensor of the backbone that is used comes from the file."""
    torch.manual_seed(1)
    scratch = ImageEncoder(tiny.image, 4).backbone.state_dict()
    torch.manual_seed(1)
    loaded = ImageEncoder(tiny.image.model_copy(update={"weights": str(weights)}), 4).backbone.state_dict()
    stored = load_file(weights)
    assert loaded.keys() == scratch.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, stored[name]), name
    assert not torch.equal(loaded["conv1.0.weight"], scratch["conv1.0.weight"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone": "resnet0"}, "model.image 'resnet0'"),
        ({"stages": (9,)}, "model.image 'resnet10t'"),
        ({"backbone_args": {"widht": 3}}, "model.image 'resnet10t'"),
        ({"weights": "nowhere.safetensors"}, "model.image.weights nowhere.safetensors"),
    ],
)
def test_an_image_encoder_that_cannot_be_built_says_why(
    tiny: LocalizerConfig, change: dict[str, Any], named: str
) -> None:
    """Unknown name, stage or argument, or missing weights: one line that names the section and the cause."""
    settings = ImageEncoderConfig.read(tiny.image.model_dump() | change, "model.image")
    with pytest.raises(ConfigError, match=facts(named)) as caught:
        ImageEncoder(settings, 4)
    assert "\n" not in str(caught.value)


def test_unusable_weights_are_refused(tiny: LocalizerConfig, weights: Path) -> None:
    """Another network's weights, or half a file, are an error that names it, not a start from scratch."""
    settings = tiny.image.model_copy(update={"weights": str(weights)})
    whole = load_file(weights)
    save_file({name: tensor for name, tensor in whole.items() if name != "layer1.0.conv1.weight"}, weights)
    with pytest.raises(ConfigError, match=facts("weights backbone.safetensors 'layer1.0.conv1.weight'")):
        ImageEncoder(settings, 4)
    save_file(whole | {"conv1.0.weight": torch.zeros(1, 1, 1, 1)}, weights)
    with pytest.raises(ConfigError, match=r"model\.image: .*conv1\.0"):
        ImageEncoder(settings, 4)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ConfigError, match=facts("weights backbone.safetensors")):
        ImageEncoder(settings, 4)


def test_an_unknown_audio_backbone_is_refused(tiny: LocalizerConfig) -> None:
    """The audio side says so as the image side does."""
    audio = tiny.audio.model_copy(update={"backbone": "resnet0"})
    with pytest.raises(ConfigError, match=r"model\.audio: 'resnet0'") as caught:
        Localizer(tiny.model_copy(update={"audio": audio}))
    assert "\n" not in str(caught.value)
