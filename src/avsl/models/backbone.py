"""Networks of timm and files of weights, with their many errors made one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from avsl.schema import ConfigError


def make_backbone(section: str, name: str, *, last_stride: int = 2, **settings: Any) -> nn.Module:
    """The timm network ``name``.

    Args:
        section: of the configuration, for errors.
        name: timm's.
        last_stride: 1 leaves out the last stage's stride and dilates nothing (timm's ``output_stride`` does).
        settings: passed to timm.

    Raises:
        ConfigError: it is unknown, or its settings do not fit; names ``section`` of the configuration.
    """
    # Here, as it takes two seconds and most stages read the configuration alone.
    import timm

    try:
        network: nn.Module = timm.create_model(name, **settings)
    except (RuntimeError, LookupError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{section}: '{name}' cannot be built: {' '.join(str(error).split())}") from error
    if last_stride == 1:
        last = getattr(network, "layer4", None)
        if last is None:
            raise ConfigError(f"{section}.last_stride: '{name}' is no ResNet, so its stride is what it is")
        for layer in last.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
            elif isinstance(layer, nn.AvgPool2d):
                raise ConfigError(f"{section}.last_stride: '{name}' strides by pooling, which stays")
    return network


@contextmanager
def open_weights(key: str, path: str) -> Iterator[Any]:
    """A safetensors file, open for its names and tensors.

    Args:
        key: of the configuration, for errors.
        path: the file.

    Raises:
        ConfigError: it cannot be read or is no safetensors file; names ``key``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError:
        raise ConfigError(f"{key}: cannot read {path}") from None
    except SafetensorError as error:
        raise ConfigError(f"{key}: {path} is no safetensors file: {error}") from None


def make_feature_network(section: str, name: str, weights: str, **settings: Any) -> nn.Module:
    """The timm network ``name`` as a giver of feature maps.

    Args:
        section: of the configuration, for errors.
        name: timm's.
        weights: a local safetensors file of ImageNet weights; empty starts from scratch.
        settings: for :func:`make_backbone`; ``out_indices`` says which maps.

    Raises:
        ConfigError: it cannot be built, or the file cannot be read or lacks one of the network's tensors.
    """
    stored: set[str] | None = None
    if weights:
        with open_weights(f"{section}.weights", weights) as file:
            stored = set(file.keys())
    network = make_backbone(
        section,
        name,
        pretrained=bool(weights),
        features_only=True,
        pretrained_cfg_overlay={"file": weights} if weights else None,
        **settings,
    )
    if stored is not None:
        # timm says nothing of tensors it does not find. Its wrappers may put "model." before a name and join it by "_".
        known = {parameter.replace(".", "_") for parameter in stored}
        used = {parameter.removeprefix("model.") for parameter, _ in network.named_parameters()}
        if absent := sorted(parameter for parameter in used if parameter.replace(".", "_") not in known):
            raise ConfigError(f"{section}.weights: {weights} lacks '{absent[0]}' of {name}")
    return network
