"""Where everything that is made lies, below ``root``; dvc.yaml names the same paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsl.config.models import Config
from avsl.errors import DataError


@dataclass(frozen=True)
class Layout:
    """The folders of one configuration."""

    base: Path
    ratio: str
    method: str

    @classmethod
    def of(cls, config: Config) -> Layout:
        """The layout below ``root/<data set>``; a method is a framework over an objective."""
        method = f"{config.framework.name}-{config.objective.name}"
        return cls(config.root / config.data.name, str(float(config.split.label_ratio)), method)

    @property
    def prepared(self) -> Path:
        """The prepared data set."""
        return self.base / "prepared"

    @property
    def split(self) -> Path:
        """The split's file."""
        return self.base / "split" / f"{self.ratio}.json"

    @property
    def train(self) -> Path:
        """What a training leaves: model, curves, pictures, and how it was made."""
        return self.base / "train" / self.ratio / self.method

    @property
    def state(self) -> Path:
        """Checkpoints of a training under way; no output of any stage, so that DVC does not delete them."""
        return self.base / "state" / self.ratio / self.method

    @property
    def checkpoint(self) -> Path:
        """The checkpoint from which that training goes on."""
        return self.state / "last.ckpt"

    @property
    def evaluations(self) -> Path:
        """The evaluations of all methods at this ratio."""
        return self.base / "evaluate" / self.ratio

    @property
    def evaluation(self) -> Path:
        """This method's evaluation."""
        return self.evaluations / self.method

    @property
    def registered(self) -> Path:
        """What became of the registry at this ratio."""
        return self.base / "register" / f"{self.ratio}.json"

    def imported(self, name: str) -> Path:
        """A published model, whatever the ratio, and its evaluation; beside the evaluations, so it competes nowhere."""
        return self.base / "imported" / name

    @property
    def report(self) -> Path:
        """Tables and figures over all ratios and methods."""
        return self.base / "report"


def read_run(layout: Layout) -> dict[str, Any]:
    """How the model of a layout was trained.

    Raises:
        DataError: it has not been.
    """
    path = layout.train / "run.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: train the model first") from None
    return found


def n_of_n(figures: Mapping[str, Any]) -> str:
    """How many of a part's listed rows its figures rest on, "4,692 of 5,158"; an older evaluation does not say."""
    found = figures["n"] + figures["n_silent"]
    return f"{found:,} of {figures['n_listed']:,}" if "n_listed" in figures else f"{found:,} of ?"
