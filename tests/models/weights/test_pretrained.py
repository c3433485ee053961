"""Pretrained weights: packages of the same format that the tests write are fetched, read, kept once and named."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.fixtures.messages import facts
from tests.fixtures.reference import Arrays, LoadReference
from torch import Tensor

from avsl.cli import main
from avsl.files import file_hash
from avsl.functional.image import MEAN, STD
from avsl.models.aisfx import AiSFXEncoder, AiSFXEncoderConfig
from avsl.models.image import ImageEncoder, ImageEncoderConfig
from avsl.models.soundnet import SoundNetEncoder, SoundNetEncoderConfig
from avsl.models.weights import pretrained
from avsl.models.weights.pretrained import PRETRAINED, cached, get_weights, import_weights
from avsl.schema import ConfigError


def _lite0() -> dict[str, Tensor]:
    """The published names of EfficientNet-Lite0 with another number in each tensor."""
    like = ImageEncoder(ImageEncoderConfig(backbone="tf_efficientnet_lite0", stages=(4,)), 4).backbone.state_dict()
    layers = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    others |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    places: list[str] = []
    found = {}
    for number, (name, tensor) in enumerate(like.items()):
        *place, layer, kind = name.split(".")
        if place and ".".join(place) not in places:
            places.append(".".join(place))
        k = places.index(".".join(place)) if place else -1
        theirs = f"_blocks.{k}.{(others if k else first)[layer]}" if place else layers[layer]
        found[f"{theirs}.{kind}"] = torch.full_like(tensor, number)
    return found


def _soundnet() -> dict[str, Any]:
    """SoundNet's layers as TensorFlow stored them."""
    rng = np.random.default_rng(0)
    widths, kernels = (1, 16, 32, 64, 128, 256, 512, 1024), (64, 32, 16, 8, 4, 4, 4)
    return {
        f"conv{k + 1}": {"weights": rng.normal(size=(kernel, 1, widths[k], widths[k + 1])).astype(np.float32)}
        | {name: rng.random(widths[k + 1], np.float32) for name in ("biases", "gamma", "beta", "mean", "var")}
        for k, kernel in enumerate(kernels)
    }


def _write(name: str) -> bytes:
    content = io.BytesIO()
    if name == "soundnet":
        np.save(content, np.array(_soundnet(), dtype=object), allow_pickle=True)
    elif name == "aisfx":
        torch.save(({"embedding_net.conv_block1.conv1.weight": torch.ones(2), "head": torch.ones(1)}, {}), content)
    else:
        torch.save(_lite0(), content)
    return content.getvalue()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Small packages, whose hashes are the pinned ones, and an empty cache."""
    monkeypatch.setenv("AVSL_WEIGHTS", str(tmp_path / "cache"))
    written = {}
    for name, entry in dict(PRETRAINED).items():
        content = _write(name)
        stem = f"{entry.package}-{entry.version}"
        info = f"{entry.package.replace('-', '_')}-{entry.version}"
        path = tmp_path / (f"{info}-py3-none-any.whl" if entry.wheel else f"{stem}.tar.gz")
        if entry.wheel:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(entry.member, content)
                about = f"Metadata-Version: 2.1\nName: {entry.package}\nVersion: {entry.version}\n"
                archive.writestr(f"{info}.dist-info/METADATA", about)
                archive.writestr(f"{info}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
                archive.writestr(f"{info}.dist-info/RECORD", "")
        else:
            with tarfile.open(path, "w:gz") as source:
                member = tarfile.TarInfo(f"{stem}/{entry.member}")
                member.size = len(content)
                source.addfile(member, io.BytesIO(content))
        (tmp_path / "file").write_bytes(content)
        fake = replace(entry, package_sha256=file_hash(path), file_sha256=file_hash(tmp_path / "file"))
        monkeypatch.setitem(PRETRAINED, name, fake)
        written[name] = path
    return written


@pytest.mark.parametrize("name", sorted(PRETRAINED))
def test_a_package_becomes_safetensors(packages: dict[str, Path], name: str) -> None:
    """With license, source and hash beside the tensors."""
    path = import_weights(packages[name], name)
    assert path == cached(name)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    entry = PRETRAINED[name]
    assert metadata["license"] == entry.license
    assert entry.package in metadata["source"]
    assert metadata["sha256"] == entry.file_sha256


def test_an_image_encoder_starts_from_named_weights(packages: dict[str, Path]) -> None:
    """Each tensor takes the place of its published name; mean and std come with the name."""
    import_weights(packages["efficientnet_lite0"], "efficientnet_lite0")
    config = ImageEncoderConfig(backbone="tf_efficientnet_lite0", stages=(4,), weights="efficientnet_lite0")
    assert config.mean == config.std == (0.5, 0.5, 0.5)
    tensors = ImageEncoder(config, 4).backbone.state_dict().values()
    assert [int(tensor.flatten()[0]) for tensor in tensors] == list(range(len(tensors)))


def test_soundnet_starts_from_named_weights(packages: dict[str, Path]) -> None:
    """A kernel's axes are turned round."""
    import_weights(packages["soundnet"], "soundnet")
    network = SoundNetEncoder(SoundNetEncoderConfig(weights="soundnet"), 4).network.state_dict()
    stored = _soundnet()["conv3"]
    np.testing.assert_array_equal(network["conv3.weight"].numpy()[5, 7], stored["weights"][:, 0, 7, 5])
    np.testing.assert_array_equal(network["norm3.running_var"].numpy(), stored["var"])


def test_weights_are_fetched_once_by_pinned_version_and_hash(
    packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip's own settings say from where; it is not asked again, and other bytes are refused."""
    folder = packages["aisfx"].parent
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with monkeypatch.context() as changed:
        changed.setitem(PRETRAINED, "aisfx", replace(PRETRAINED["aisfx"], package_sha256="0" * 64))
        with pytest.raises(ConfigError, match=facts("'aisfx' 0.1.2 import")):
            get_weights("aisfx")
    assert not cached("aisfx").exists()
    path = get_weights("aisfx")
    assert set(load_file(path)) == {"conv_block1.conv1.weight"}
    packages["aisfx"].unlink()
    assert get_weights("aisfx") == path


def test_other_files_are_refused(packages: dict[str, Path], tmp_path: Path) -> None:
    """By their hash, before they are read; nothing is left in the cache."""
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    for path, message in ((other, "other.pth SHA-256"), (tmp_path / "absent", "absent")):
        with pytest.raises(ConfigError, match=facts(message)):
            import_weights(path, "aisfx")
    with pytest.raises(ConfigError, match=facts("other.pth safetensors")):
        import_weights(other, "mine")
    with pytest.raises(ConfigError, match=facts("soundnet")):
        SoundNetEncoder(SoundNetEncoderConfig(weights="soundnet"), 4)
    with pytest.raises(ConfigError, match=facts("aisfx efficientnet_lite0 soundnet")):
        SoundNetEncoder(SoundNetEncoderConfig(weights="nothing"), 4)
    assert not (tmp_path / "cache").exists()


def test_a_failed_write_leaves_the_cache_as_it_was(packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the cache is whole or absent."""

    def fail(_: Any, path: Path, *__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", fail)
    with pytest.raises(ConfigError, match=facts("No space left")):
        import_weights(packages["aisfx"], "aisfx")
    assert list(cached("aisfx").parent.iterdir()) == []


def test_the_command_imports_and_lists(
    packages: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pinned weights and any safetensors file, under the names that configurations use."""
    save_file({"a": torch.ones(1)}, tmp_path / "own.safetensors")
    assert main(["weights", "import", str(tmp_path / "own.safetensors"), "--as", "vggish"]) == 0
    assert main(["weights", "import", str(packages["soundnet"]), "--as", "soundnet"]) == 0
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(rows) == {*PRETRAINED, "vggish"}
    assert [name for name, line in rows.items() if line.endswith("absent")] == ["efficientnet_lite0", "aisfx"]
    assert main(["weights", "get", "nothing"]) == 2


def test_timms_own_weights_need_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the sentence says so; they are not used with another mean than theirs."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = ImageEncoderConfig(backbone="test_resnet", stages=(1,), weights="timm")
    with pytest.raises(ConfigError, match=r"model\.image\.weights: .*test_resnet.*network"):
        ImageEncoder(config, 4)


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


@pytest.mark.reference
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


@pytest.mark.reference
@torch.no_grad()
def test_aisfx(published: Arrays) -> None:
    """The code of a spectrogram, time first."""
    encoder = AiSFXEncoder(AiSFXEncoderConfig(weights=_weights("aisfx")), 8).eval()
    _close(encoder(published["mels"][:, None]).code, published["aisfx"])


@pytest.mark.reference
@torch.no_grad()
def test_soundnet(published: Arrays) -> None:
    """The codes of the fifth and the seventh layer; the front end multiplies by 256."""
    encoder = SoundNetEncoder(SoundNetEncoderConfig(weights=_weights("soundnet"), sample_rate=22050), 8).eval()
    code = encoder(encoder.front_end(published["waveform"])).code
    _close(code[:, :256], published["soundnet_5"])
    _close(code[:, 256:], published["soundnet_7"])
