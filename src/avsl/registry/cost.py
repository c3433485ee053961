"""What serving a model costs, told from its files, so that it is the same on every machine."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from avsl.errors import DataError


def count_parameters(folder: Path) -> int:
    """The numbers that an exported model holds, those of all its members together.

    Args:
        folder: the exported model's.

    Raises:
        DataError: its weights are missing or cannot be read.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
