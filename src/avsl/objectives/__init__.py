"""Self-supervised objectives, one file each; none of them ever sees a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.schema import StrictConfig
from avsl.types import Objective

OBJECTIVES: dict[str, tuple[Callable[[Any], Objective], type[StrictConfig]]] = {
    "ezvsl": (EZVSL, EZVSLConfig),
}

__all__ = ["EZVSL", "OBJECTIVES", "EZVSLConfig"]
