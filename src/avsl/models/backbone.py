"""Networks of timm, with its many errors made one."""

from __future__ import annotations

from typing import Any

import timm
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
