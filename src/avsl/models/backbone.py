"""Networks of timm and files of weights; every failure is a ConfigError."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from avsl.models.weights.pretrained import find_weights
from avsl.schema import ConfigError

if TYPE_CHECKING:
    from timm.models import FeatureInfo


# Settings with which timm's networks of a fixed input size accept other sizes.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})
_PROBES = ((64, 51), (96, 128))  # px: sides that no stride divides, and multiples of 32


@dataclass(frozen=True)
class _InputSize:
    """The allowed input sizes of a network; other inputs are resized to the nearest, which keeps relative positions.

    Attributes:
        multiple: divisor of both sides.
        least: smallest side, px.
        fixed: the only allowed side, px; 0 for any.
    """

    multiple: int = 1
    least: int = 0
    fixed: int = 0

    def resize(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Forward pre-hook: resize (B, C, H, W) bilinearly."""
        size = tuple(self._side(side) for side in inputs[0].shape[-2:])
        if size == inputs[0].shape[-2:]:
            return inputs
        return (F.interpolate(inputs[0], size=size, mode="bilinear", align_corners=False),)

    def _side(self, side: int) -> int:
        return self.fixed or max(self.least, -(-side // self.multiple) * self.multiple)


_INPUT_SIZES = (_InputSize(), _InputSize(multiple=32), _InputSize(multiple=32, least=128))


def make_backbone(section: str, name: str, *, last_stride: int = 2, **settings: Any) -> tuple[nn.Module, list[int]]:
    """The timm network ``name``, for inputs of any size and with outputs (B, C, h, w).

    Inputs are resized for a network with fixed input sizes, and outputs with channels last or tokens are permuted. Two
    small inputs are passed through the network to find out what it needs.

    Args:
        section: section of the configuration, for errors.
        name: name in timm.
        last_stride: 1 removes the last stage's stride without dilation, unlike timm's ``output_stride``.
        settings: passed to timm.

    Returns:
        The network, and the measured channels of its output, or of each of its feature maps.

    Raises:
        ConfigError: the network or a setting is unknown, or its outputs are no maps; names ``section``.
    """
    # Imported here because it takes two seconds, and most stages only read the configuration.
    import timm

    try:
        network: nn.Module = timm.create_model(name, **settings)
    except Exception as error:  # timm's networks raise errors of many types
        raise ConfigError(f"{section}: '{name}' cannot be built: {' '.join(str(error).split())}") from error
    if last_stride == 1:
        _leave_out_last_stride(section, name, network)
    channels = settings.get("in_chans", 3)
    side = settings.get("img_size", getattr(network, "default_cfg", {}).get("input_size", (3, 224, 224))[-1])
    candidates: list[nn.Module | None] = [network, *(None for _ in _ANY_SIZE[1:])]
    unknown: set[int] = set()
    failure: Exception | None = None
    for size in (*_INPUT_SIZES, _InputSize(fixed=side if isinstance(side, int) else side[-1])):
        for k, extra in enumerate(_ANY_SIZE):
            if k in unknown:
                continue
            try:
                candidate = candidates[k] = candidates[k] or timm.create_model(name, **settings | extra)
            except Exception:
                unknown.add(k)  # it has no such setting
                continue
            try:
                return candidate, _fit(candidate, size, channels)
            except Exception as error:
                failure = failure or error
    raise ConfigError(f"{section}: '{name}' cannot be used: {' '.join(str(failure).split())}") from failure


def _leave_out_last_stride(section: str, name: str, network: nn.Module) -> None:
    last = getattr(network, "layer4", None)
    if last is None:
        raise ConfigError(f"{section}.last_stride: '{name}' is not a ResNet, whose stride alone can be changed")
    for layer in last.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        elif isinstance(layer, nn.AvgPool2d):
            raise ConfigError(f"{section}.last_stride: '{name}' strides by pooling, which cannot be changed")


@torch.no_grad()
def _fit(network: nn.Module, size: _InputSize, channels: int) -> list[int]:
    """Make the network resize inputs and permute outputs as needed; returns the channels of each output.

    Raises:
        Exception: the network fails on a probe; it is unchanged.
    """
    training = network.training
    network.eval()
    hooks = [network.register_forward_pre_hook(size.resize), network.register_forward_hook(_channels_first)]
    try:
        outputs = [network(torch.zeros(2, channels, *sides)) for sides in _PROBES]
        widths = [[x.shape[1] for x in (maps if isinstance(maps, list) else [maps])] for maps in outputs]
        if widths[0] != widths[1]:
            raise ValueError(f"the widths of its outputs depend on the size of the input: {widths[0]} and {widths[1]}")
    except Exception:
        for hook in hooks:
            hook.remove()
        raise
    finally:
        network.train(training)
    return widths[0]


def _channels_first(network: nn.Module, _: Any, output: Any) -> Any:
    """Forward hook: outputs as (B, C, h, w), tokens as (B, C, N, 1), pooled outputs as (B, C, 1, 1)."""
    if isinstance(output, list | tuple) and all(isinstance(maps, Tensor) for maps in output):
        widths = cast("FeatureInfo", network.feature_info).channels()
        return [_permuted(maps, {width}, 0) for maps, width in zip(output, widths, strict=True)]
    if not isinstance(output, Tensor):
        raise TypeError(f"its output is {type(output).__name__}, not a map")
    widths = {getattr(network, name, None) for name in ("num_features", "head_hidden_size", "embed_dim")}
    return _permuted(output, widths, int(getattr(network, "num_prefix_tokens", 0)))


def _permuted(maps: Tensor, widths: Collection[Any], prefix_tokens: int) -> Tensor:
    match maps.ndim:
        case 2:
            return maps[:, :, None, None]
        case 3:
            return maps[:, prefix_tokens:].transpose(1, 2).unsqueeze(-1)
        case 4 if maps.shape[1] not in widths and maps.shape[-1] in widths:
            return maps.permute(0, 3, 1, 2)
        case 4:
            return maps
    raise ValueError(f"its outputs have {maps.ndim} axes and are not maps")


@contextmanager
def open_weights(key: str, path: str) -> Iterator[Any]:
    """Open a safetensors file for reading.

    Args:
        key: key of the configuration, for errors.
        path: the file.

    Raises:
        ConfigError: the file cannot be read or is not a safetensors file; names ``key``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError:
        raise ConfigError(f"{key}: cannot read {path}") from None
    except SafetensorError as error:
        raise ConfigError(f"{key}: {path} is not a safetensors file: {error}") from None


def load_weights(key: str, weights: str, network: nn.Module, what: str) -> None:
    """Load a file of weights into a network.

    Args:
        key: key of the configuration, for errors.
        weights: a name of pretrained weights, or a safetensors file; it may hold more tensors.
        network: receives the weights.
        what: the network's name, for errors.

    Raises:
        ConfigError: the file cannot be read, or lacks a tensor, or has one of another shape; names ``key``.
    """
    path = find_weights(key, weights)
    with open_weights(key, path) as file, torch.no_grad():
        stored = set(file.keys())
        for name, own in network.state_dict().items():
            if name not in stored and name.endswith("num_batches_tracked"):
                continue  # TensorFlow's checkpoints have none, and it is not used
            if name not in stored:
                raise ConfigError(f"{key}: {path} lacks '{name}' of {what}")
            tensor = file.get_tensor(name)
            if tensor.shape != own.shape:
                given, wanted = list(tensor.shape), list(own.shape)
                raise ConfigError(f"{key}: '{name}' of {path} has the shape {given}, not {wanted}")
            own.copy_(tensor)


def make_feature_network(section: str, name: str, weights: str, **settings: Any) -> tuple[nn.Module, list[int]]:
    """Make the timm network ``name`` with feature maps as outputs.

    Args:
        section: section of the configuration, for errors.
        name: name in timm.
        weights: a name of pretrained weights, a safetensors file, or ``timm`` for timm's own download; empty starts
            from scratch.
        settings: for :func:`make_backbone`; ``out_indices`` selects the maps.

    Returns:
        The network, and the channels of its maps.

    Raises:
        ConfigError: it cannot be built, or the file cannot be read or lacks one of the network's tensors.
    """
    if weights == "timm":
        try:
            return make_backbone(section, name, pretrained=True, features_only=True, **settings)
        except ConfigError as error:
            raise ConfigError(
                f"{section}.weights: timm gives no weights of {name}; without a network connection name "
                f"a safetensors file or weights of `avsl weights list` ({error})"
            ) from None
    stored: set[str] | None = None
    weights = find_weights(f"{section}.weights", weights)
    if weights:
        with open_weights(f"{section}.weights", weights) as file:
            stored = set(file.keys())
    network, widths = make_backbone(
        section,
        name,
        pretrained=bool(weights),
        features_only=True,
        pretrained_cfg_overlay={"file": weights} if weights else None,
        **settings,
    )
    if stored is not None:
        # timm ignores missing tensors. Its wrappers may prefix a name with "model." and join its parts with "_".
        known = {parameter.replace(".", "_") for parameter in stored}
        used = {parameter.removeprefix("model.") for parameter, _ in network.named_parameters()}
        if absent := sorted(parameter for parameter in used if parameter.replace(".", "_") not in known):
            raise ConfigError(f"{section}.weights: {weights} lacks '{absent[0]}' of {name}")
    return network, widths
