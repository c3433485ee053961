"""Where everything that is made lies, below ``root``; dvc.yaml names the same paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avsl.config.models import Config


@dataclass(frozen=True)
class Layout:
    """The folders of one configuration.

    Attributes:
        base: of all that follows training.
        ratio: the label ratio.
        method: a framework over an objective.
        prepared: the prepared data set.
        splits: the splits of that set.
    """

    base: Path
    ratio: str
    method: str
    prepared: Path
    splits: Path

    @classmethod
    def of(cls, config: Config) -> Layout:
        """The layout below ``root/<data set>`` or, for a variant, below ``variants`` there."""
        method = f"{config.framework.name}-{config.objective.name}"
        ratio, dag, variant = str(float(config.split.label_ratio)), config.root / config.data.name, config.variant
        train, data, split = (
            dag / "variants" / name if name else dag for name in (variant.train, variant.data, variant.split)
        )
        return cls(train, ratio, method, data / "prepared", split / "split")

    @property
    def split(self) -> Path:
        """The split's file."""
        return self.splits / f"{self.ratio}.json"

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
