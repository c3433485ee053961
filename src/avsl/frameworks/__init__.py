"""Semi-supervised frameworks, one file each; none of them knows which objective it wraps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avsl.frameworks.branch import Branch, MakeBranch
from avsl.frameworks.dmt import DMT, DMTConfig
from avsl.frameworks.mean_teacher import MeanTeacher, MeanTeacherConfig
from avsl.frameworks.supervised import Supervised, SupervisedConfig
from avsl.schema import StrictConfig
from avsl.types import Framework

FRAMEWORKS: dict[str, tuple[Callable[[MakeBranch, Any], Framework], type[StrictConfig]]] = {
    "supervised": (Supervised, SupervisedConfig),
    "mean_teacher": (MeanTeacher, MeanTeacherConfig),
    "dmt": (DMT, DMTConfig),
}

__all__ = [
    "DMT",
    "FRAMEWORKS",
    "Branch",
    "DMTConfig",
    "MeanTeacher",
    "MeanTeacherConfig",
    "Supervised",
    "SupervisedConfig",
]
