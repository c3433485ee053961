"""Semi-supervised frameworks, one file each, for any objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avsl.frameworks.branch import MakeBranch
from avsl.frameworks.dmt import DMT, DMTConfig
from avsl.frameworks.mean_teacher import MeanTeacher, MeanTeacherConfig
from avsl.frameworks.mean_teacher_pair import MeanTeacherPair, MeanTeacherPairConfig
from avsl.frameworks.pseudo_label import PseudoLabel, PseudoLabelConfig
from avsl.frameworks.self_supervised import SelfSupervised, SelfSupervisedConfig
from avsl.frameworks.supervised import Supervised, SupervisedConfig
from avsl.frameworks.xpl import XPL, XPLConfig
from avsl.schema import StrictConfig
from avsl.types import Framework

FRAMEWORKS: dict[str, tuple[Callable[[MakeBranch, Any], Framework], type[StrictConfig]]] = {
    "supervised": (Supervised, SupervisedConfig),
    "self_supervised": (SelfSupervised, SelfSupervisedConfig),
    "pseudo_label": (PseudoLabel, PseudoLabelConfig),
    "mean_teacher": (MeanTeacher, MeanTeacherConfig),
    "mean_teacher_pair": (MeanTeacherPair, MeanTeacherPairConfig),
    "xpl": (XPL, XPLConfig),
    "dmt": (DMT, DMTConfig),
}
