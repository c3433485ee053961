"""Networks of timm, with its many errors made one."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from avsl.schema import ConfigError


def make_backbone(section: str, name: str, **settings: Any) -> nn.Module:
    """The timm network ``name``.

    Raises:
        ConfigError: it is unknown, or its settings do not fit; names ``section`` of the configuration.
    """
    try:
        network: nn.Module = timm.create_model(name, **settings)
    except (RuntimeError, LookupError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{section}: '{name}' cannot be built: {' '.join(str(error).split())}") from error
    return network
