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
        objective: below the framework.
        seed: of the training.
        prepared: the prepared data set.
        all_splits: the splits of that set, by ratio and seed.
        all_starts: the start weights, by objective and seed.
        starts: whether frameworks start from them.
    """

    base: Path
    ratio: str
    method: str
    objective: str
    seed: int
    prepared: Path
    all_splits: Path
    all_starts: Path
    starts: bool

    @classmethod
    def of(cls, config: Config) -> Layout:
        """The layout below ``root/<data set>`` or, for a variant, below ``variants`` there."""
        method = f"{config.framework.name}-{config.objective.name}"
        ratio, dag, variant = str(float(config.split.label_ratio)), config.root / config.data.name, config.variant
        names = (variant.train, variant.data, variant.split, variant.start)
        train, data, split, start = (dag / "variants" / name if name else dag for name in names)
        return cls(
            base=train,
            ratio=ratio,
            method=method,
            objective=config.objective.name,
            seed=config.seed,
            prepared=data / "prepared",
            all_splits=split / "split",
            all_starts=start / "start",
            starts=config.start.epochs > 0,
        )

    @property
    def split(self) -> Path:
        """The split's file."""
        return self.splits / f"{self.seed}.json"

    @property
    def splits(self) -> Path:
        """The splits of all seeds at this ratio."""
        return self.all_splits / self.ratio

    @property
    def start(self) -> Path | None:
        """Folder of the weights from which the students of every framework start; None for initial weights."""
        return self.start_of_seed if self.starts else None

    @property
    def start_of_seed(self) -> Path:
        """What the self-supervised trainings of this objective and seed leave."""
        return self.all_starts / self.objective / str(self.seed)

    @property
    def train(self) -> Path:
        """What a training leaves: model, curves, pictures, and how it was made."""
        return self.cell / str(self.seed)

    @property
    def cell(self) -> Path:
        """The trainings of all seeds of this method at this ratio."""
        return self.base / "train" / self.ratio / self.method

    @property
    def state(self) -> Path:
        """Checkpoints of a training under way; no output of any stage, so that DVC does not delete them."""
        return self.base / "state" / self.ratio / self.method / str(self.seed)

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
        """The evaluation of this method's training with this seed."""
        return self.evaluated_cell / str(self.seed)

    @property
    def evaluated_cell(self) -> Path:
        """The evaluations of all seeds of this method at this ratio."""
        return self.evaluations / self.method

    @property
    def registered(self) -> Path:
        """What became of the registry at this ratio."""
        return self.base / "register" / f"{self.ratio}.json"

    def imported(self, name: str) -> Path:
        """A published model, whatever the ratio, and its evaluation; beside the evaluations, so it competes nowhere."""
        return self.base / "imported" / name

    def scored(self, model_hash: str) -> Path:
        """What a model of another data set scores on this one."""
        return self.base / "scored" / model_hash[:12]

    @property
    def report(self) -> Path:
        """Tables and figures over all ratios and methods."""
        return self.base / "report"
