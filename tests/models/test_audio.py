"""Audio encoders: VGGish and the waveform's, what frozen means, and how a section says which one it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import save_file
from tests.fixtures.messages import facts
from tests.fixtures.reference import FillReference, LoadReference
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.frameworks.branch import Branch
from avsl.functional.geometry import identity
from avsl.models import (
    ExportedModel,
    Localizer,
    LocalizerConfig,
    LocalizerEnsemble,
    load_exported,
    save_exported,
)
from avsl.models.audio import (
    AudioEncoderConfig,
    SpectrogramEncoderConfig,
    VGGishEncoderConfig,
    WaveformEncoderConfig,
    make_audio_encoder,
)
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.models.vggish import VGGishEncoder
from avsl.models.waveform import WaveformEncoder
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.schema import ConfigError
from avsl.types import AVBatch

SMALL = VGGishEncoderConfig(channels=(4, 6, 8, 10), hidden=12)
Array = NDArray[np.float64]


def _sounds(samples: int, rows: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(rows, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def _view(samples: int, rows: int = 3) -> AVBatch:
    """32 px frames with their sounds."""
    return AVBatch(
        frame=torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(rows)),
        waveform=_sounds(samples, rows),
        features={},
        index=torch.arange(rows),
        geometry=identity(rows),
    )


@pytest.mark.reference
def test_the_default_vggish_is_the_published_one(load_reference: LoadReference, fill_reference: FillReference) -> None:
    """Code and projection of the published examples with the published layout's weights."""
    arrays = load_reference("official_checkpoints.npz")
    names = ("vggish_log_mel", "sspl_audio_embedding", "sspl_audio_projection")
    examples, code, projection = (arrays[name] for name in names)
    encoder = VGGishEncoder(VGGishEncoderConfig(), 512)
    encoder.load_state_dict(fill_reference("sspl_sound", int(arrays["seed"])))
    with torch.no_grad():
        encoding = encoder.eval()(examples.reshape(1, 1, 288, 64))
    torch.testing.assert_close(encoding.code[0], code, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoding.embedding[0], projection, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vggish_is_the_mean_over_its_examples() -> None:
    """Embeddings are averaged after the linear layers, codes before they are normalized; order does not matter."""
    torch.manual_seed(0)
    encoder = VGGishEncoder(SMALL, 5).eval()
    examples = torch.randn(4, 1, 96, 64)
    alone = encoder(examples)
    together = encoder(examples.view(2, 1, 192, 64))
    torch.testing.assert_close(together.embedding, alone.embedding.view(2, 2, 5).mean(1))
    codes = encoder.embeddings(encoder.features(examples).permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(alone.code, F.normalize(codes, dim=1))
    torch.testing.assert_close(together.code, F.normalize(codes.view(2, 2, 128).mean(1), dim=1))
    swapped = encoder(examples.view(2, 2, 96, 64).flip(1).reshape(2, 1, 192, 64))
    torch.testing.assert_close(swapped.code, together.code)
    torch.testing.assert_close(swapped.embedding, together.embedding)


@torch.no_grad()
def test_a_vggish_from_scratch_keeps_its_signal() -> None:
    """Codes of different sounds are neither dead nor the same."""
    torch.manual_seed(0)
    encoder = VGGishEncoder(VGGishEncoderConfig(channels=(16, 32, 64, 64), hidden=256), 8)
    examples = encoder.front_end(torch.stack([0.5 * torch.sin(torch.arange(16000) * f) for f in (0.05, 0.3, 1.0)]))
    codes = encoder.embeddings(encoder.features(examples).permute(0, 2, 3, 1).flatten(1))
    assert 0.05 < float(codes.std()) < 20
    cosines = F.normalize(codes, dim=1) @ F.normalize(codes, dim=1).T
    assert float((cosines - torch.eye(3)).max()) < 0.999


@pytest.mark.parametrize("norm", [False, True])
def test_vggish_starts_from_a_file_of_weights(norm: bool, tmp_path: Path) -> None:
    """Features, with the norms' statistics, and embeddings are the file's; the linear layers are new."""
    torch.manual_seed(1)
    settings = SMALL.model_copy(update={"norm": norm})
    source = VGGishEncoder(settings, 5).train()
    source(torch.randn(2, 1, 96, 64))
    stored = source.state_dict()
    path = tmp_path / "vggish.safetensors"
    save_file(dict(stored), path)
    torch.manual_seed(2)
    loaded = VGGishEncoder(settings.model_copy(update={"weights": str(path), "frozen": True}), 5)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, stored[name]) != name.startswith("fc."), name
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        f"fc.{k}.{kind}" for k in (0, 2) for kind in ("weight", "bias")
    }


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """An absent file, a lacking tensor and another width are one sentence each that names key, file and tensor."""
    state = dict(VGGishEncoder(SMALL, 5).state_dict())
    path = tmp_path / "vggish.safetensors"
    config = SMALL.model_copy(update={"weights": str(path)})
    with pytest.raises(ConfigError, match=facts("model.audio.weights vggish.safetensors")):
        VGGishEncoder(config, 5)
    save_file(state, path)
    with pytest.raises(ConfigError, match=facts("'embeddings.0.weight' [12, 240] [13, 240]")):
        VGGishEncoder(config.model_copy(update={"hidden": 13}), 5)
    del state["features.8.bias"]
    save_file(state, path)
    with pytest.raises(ConfigError, match=facts("model.audio.weights 'features.8.bias'")):
        VGGishEncoder(config, 5)


def _convolve(sound: Array, kernels: Array) -> Array:
    """A strided convolution as SoundNet's, written out: (C, T) with (D, C, K) to (D, T')."""
    length = kernels.shape[-1]
    padded = np.pad(sound, ((0, 0), (length // 2, length // 2)))
    starts = range(0, padded.shape[1] - length + 1, 2)
    return np.array([[(padded[:, s : s + length] * kernel).sum() for s in starts] for kernel in kernels])


@torch.no_grad()
def test_the_waveform_encoder_is_what_the_loop_says() -> None:
    """Standardized samples, two of SoundNet's layers with ReLU and maximum, the highest over time, linear layer."""
    torch.manual_seed(0)
    encoder = WaveformEncoder(WaveformEncoderConfig(channels=(2, 3)), 4).eval()
    waveform = _sounds(700, rows=1)
    x = waveform.double().numpy()
    x = (x - x.mean()) / (x.std(ddof=1) + 1e-5)
    for layer in (0, 4):
        convolution = encoder.layers[layer]
        assert isinstance(convolution, nn.Conv1d)
        x = np.maximum(_convolve(x, convolution.weight.double().numpy()) / np.sqrt(1 + 1e-5), 0)
        x = np.array([[row[s : s + 8].max() for s in range(0, len(row), 8)] for row in x])
    encoding = encoder(waveform[:, None])
    np.testing.assert_allclose(encoding.code[0].numpy(), x.max(1), rtol=1e-4, atol=1e-5)
    expected = encoder.head.weight.double().numpy() @ x.max(1) + encoder.head.bias.double().numpy()
    np.testing.assert_allclose(encoding.embedding[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_soundnets_sizes_are_the_default() -> None:
    """20 s at its own rate leave 15 positions after the seventh layer, 1024 wide, as in the paper's table."""
    encoder = WaveformEncoder(WaveformEncoderConfig(), 8).eval()
    with torch.no_grad():
        assert encoder.layers(torch.zeros(1, 1, 20 * 22050)).shape == (1, 1024, 15)
    assert encoder.code_dim == 1024


@torch.no_grad()
@pytest.mark.parametrize("channels", [(4, 4, 4, 4), (2, 2, 2, 2, 2, 2, 2)])
def test_the_level_of_a_waveform_does_not_matter(channels: tuple[int, ...]) -> None:
    """Half the level or an offset is the same sound; a click, a short sound and silence pass."""
    torch.manual_seed(0)
    encoder = WaveformEncoder(WaveformEncoderConfig(channels=channels), 4).eval()
    waveform = _sounds(4000)[:, None]
    heard = encoder(waveform).embedding
    torch.testing.assert_close(encoder(0.5 * waveform).embedding, heard, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(encoder(waveform + 0.2).embedding, heard, atol=1e-3, rtol=1e-3)
    for odd in (torch.zeros(2, 1, 4000), _sounds(2)[:, None]):
        assert encoder(odd).embedding.isfinite().all()


ENCODERS = [
    pytest.param({"kind": "vggish", "channels": [4, 4, 4, 4], "hidden": 8}, id="vggish"),
    pytest.param({"kind": "vggish", "channels": [4, 4, 4, 4], "hidden": 8, "norm": True}, id="vggish-norm"),
    pytest.param({"kind": "waveform", "channels": [4, 4, 4]}, id="waveform"),
    pytest.param({"kind": "aisfx", "channels": [4, 4, 4, 4]}, id="aisfx"),
    pytest.param({"kind": "soundnet"}, id="soundnet"),
    pytest.param(
        {"kind": "joined", "encoders": [{"kind": "aisfx", "channels": [4, 4, 4, 4]}, {"kind": "soundnet"}]}, id="joined"
    ),
]
FROZEN = [
    pytest.param({"frozen": True}, id="spectrogram"),
    pytest.param({"kind": "aisfx", "channels": [4, 4, 4, 4], "frozen": True}, id="aisfx"),
    pytest.param({"kind": "soundnet", "frozen": True}, id="soundnet"),
    pytest.param({"kind": "vggish", "channels": [4, 4, 4, 4], "hidden": 8, "frozen": True}, id="vggish"),
    pytest.param(
        {"kind": "vggish", "channels": [4, 4, 4, 4], "hidden": 8, "norm": True, "frozen": True}, id="vggish-norm"
    ),
]


def _with_audio(tiny: LocalizerConfig, section: dict[str, Any]) -> LocalizerConfig:
    own = {} if "kind" in section else tiny.audio.model_dump()
    return LocalizerConfig.read(tiny.model_dump() | {"audio": own | section}, "model")


@pytest.mark.parametrize("section", ENCODERS)
def test_a_localizer_listens_through_any_encoder(tiny: LocalizerConfig, section: dict[str, Any]) -> None:
    """From the waveform, of any length; the map depends on the sound; every weight of the encoder learns."""
    torch.manual_seed(0)
    model = Localizer(_with_audio(tiny, section))
    view = _view(4000)
    output = model(view)
    torch.testing.assert_close(output.audio.norm(dim=1), torch.ones(3))
    weights = torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(5))
    (output.logits * weights).sum().backward()
    assert isinstance(model.audio, nn.Module)
    still = [name for name, p in model.audio.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    other = AVBatch(view.frame, _sounds(4000, seed=9), {}, view.index, view.geometry)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(view).logits, model(other).logits, atol=1e-4)


def test_members_may_hear_differently(tiny: LocalizerConfig, tmp_path: Path) -> None:
    """One ensemble of all kinds predicts from raw waveforms, and so does its export."""
    torch.manual_seed(0)
    members = [tiny, *(_with_audio(tiny, dict(case.values[0])) for case in ENCODERS)]  # type: ignore[call-overload]
    ensemble = LocalizerEnsemble([Localizer(member) for member in members]).eval()
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = ensemble.predict(frames, _sounds(4000, rows=2))
    alone = [LocalizerEnsemble([member]).predict(frames, _sounds(4000, rows=2)) for member in ensemble.members]
    torch.testing.assert_close(maps, torch.stack(alone).mean(0))
    description = ExportedModel(members=members, image_size=32, sample_rate=16000, duration_s=0.25, threshold=0.5)
    save_exported(tmp_path, ensemble, description)
    loaded, read = load_exported(tmp_path)
    assert read == description
    assert torch.equal(loaded.predict(frames, _sounds(4000, rows=2)), maps)


def test_an_export_names_no_file_of_vggishs_weights(tiny: LocalizerConfig, tmp_path: Path) -> None:
    """The weights that training started from may be gone, and their path is this machine's."""
    start = tmp_path / "vggish.safetensors"
    save_file(dict(VGGishEncoder(SMALL, 8).state_dict()), start)
    config = _with_audio(tiny, SMALL.model_dump() | {"weights": str(start)})
    model = LocalizerEnsemble([Localizer(config)]).eval()
    description = ExportedModel(members=[config], image_size=32, sample_rate=16000, duration_s=1.0, threshold=0.5)
    save_exported(tmp_path / "model", model, description)
    start.unlink()
    assert str(tmp_path) not in (tmp_path / "model" / "model.json").read_text()
    load_exported(tmp_path / "model")


@pytest.mark.parametrize("section", FROZEN)
def test_frozen_trunks_stay_as_they_are(tiny: LocalizerConfig, section: dict[str, Any]) -> None:
    """No gradient, no new statistics in training mode, not in the optimizer; what follows them is trained."""
    torch.manual_seed(0)
    image = tiny.image.model_copy(update={"frozen": True})
    model = Localizer(_with_audio(tiny, section).model_copy(update={"image": image}))
    branch = Branch(model, EZVSL(EZVSLConfig())).train()
    trunks = (
        "model.image.backbone.",
        "model.audio.backbone.",
        "model.audio.features.",
        "model.audio.embeddings.",
        "model.audio.network.",
    )
    before = {name: tensor.clone() for name, tensor in branch.state_dict().items() if name.startswith(trunks)}
    outputs = branch([_view(16000)])
    (branch.contrastive(outputs, 0).total + outputs[0].logits.mean()).backward()
    given = {id(parameter) for group in branch.param_groups() for parameter in group["params"]}
    for name, parameter in branch.named_parameters():
        frozen = name.startswith(trunks)
        assert (parameter.grad is None) == frozen, name
        assert (id(parameter) in given) != frozen, name
    after = branch.state_dict()
    assert before
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_trunk_that_is_not_frozen_keeps_statistics(tiny: LocalizerConfig) -> None:
    """The test above fails where it should: without ``frozen`` a training step changes both trunks' statistics."""
    model = Localizer(tiny).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith("running_mean")}
    model(_view(4000))
    after = model.state_dict()
    assert before
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_vgg16_ends_before_its_last_relu() -> None:
    """SSPL's image side is the published network's first 29 layers, a sixteenth of the frame's size."""
    torch.manual_seed(0)
    settings = ImageEncoderConfig(backbone="vgg16", stages=(4,), project=False, before_activation=True, frozen=True)
    encoder = ImageEncoder(settings, 512).eval()
    weights = [p for name, p in encoder.backbone.named_parameters()]
    frame = torch.randn(1, 3, 64, 64)
    x = frame
    with torch.no_grad():
        for k, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            x = F.conv2d(x if k == 0 else F.relu(x), kernel, bias, padding=1)
            if k in (1, 3, 6, 9):
                x = F.max_pool2d(F.relu(x), 2)
        maps = encoder(frame)
    assert maps.shape == (1, 512, 4, 4)
    torch.testing.assert_close(maps, x)
    assert float(maps.min()) < 0


def test_a_section_that_does_not_say_is_a_spectrograms() -> None:
    """``kind`` chooses; the encoder hears through the front end of its kind."""
    adapter: TypeAdapter[Any] = TypeAdapter(AudioEncoderConfig)
    sections: list[tuple[dict[str, Any], type[Any], str]] = [
        ({}, SpectrogramEncoderConfig, "logmel-16000-512-160-64"),
        ({"log_spectrogram": {}}, SpectrogramEncoderConfig, "logspec-16000-512-238-12"),
        ({"kind": "vggish", "channels": [2, 2, 2, 2], "hidden": 2}, VGGishEncoderConfig, "vggish"),
        ({"kind": "waveform"}, WaveformEncoderConfig, "waveform"),
    ]
    for section, kind, key in sections:
        config = adapter.validate_python(section)
        assert type(config) is kind
        assert make_audio_encoder(config, 4).front_end.key == key
        assert adapter.validate_python(config) == adapter.validate_python(config.model_dump(mode="json")) == config
