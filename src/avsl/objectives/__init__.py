"""Self-supervised objectives, one file each, which never see a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.objectives.fnac import FNAC, FNACConfig
from avsl.objectives.lvs import LVS, LVSConfig
from avsl.objectives.slavc import SLAVC, SLAVCConfig
from avsl.objectives.sspl import SSPL, SSPLConfig
from avsl.schema import StrictConfig
from avsl.types import Objective

OBJECTIVES: dict[str, tuple[Callable[[Any], Objective], type[StrictConfig]]] = {
    "ezvsl": (EZVSL, EZVSLConfig),
    "fnac": (FNAC, FNACConfig),
    "lvs": (LVS, LVSConfig),
    "slavc": (SLAVC, SLAVCConfig),
    "sspl": (SSPL, SSPLConfig),
}
