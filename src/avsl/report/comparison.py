"""What the report compares, and how its figures are written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avsl.data.prepared.reader import PreparedData
from avsl.paths import Layout
from avsl.records import EvaluationRecord, RunRecord


@dataclass(frozen=True)
class Cell:
    """An evaluated model: a framework over an objective at a label ratio.

    Attributes:
        scores: its evaluation.
        run: its training.
        interval: 95 % interval of test CIoU, in per cent.
        model: its name in tables and figures: the framework, with the objective where there are several.
    """

    scores: EvaluationRecord
    run: RunRecord
    interval: tuple[float, float]
    model: str

    @property
    def label_ratio(self) -> float:
        """In (0, 1]."""
        return self.scores.label_ratio

    @property
    def test_ciou(self) -> float:
        """CIoU@0.5 on the part ``test``, in [0, 1]."""
        return self.scores.test.scores["ciou"]


@dataclass(frozen=True)
class Comparison:
    """All evaluated models of a data set.

    Attributes:
        layout: where all of it lies.
        cells: the evaluations, by label ratio, framework and objective; at least one.
        rows: of the comparison's table.
        baselines: test CIoU in per cent of what needs no model, by name.
    """

    layout: Layout
    cells: Sequence[Cell]
    rows: Sequence[Mapping[str, Any]]
    baselines: Mapping[str, float]

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data set."""
        return PreparedData.open(self.layout.prepared)

    @property
    def models(self) -> list[str]:
        """Names in the order that gives each model its color in every figure."""
        return sorted({cell.model for cell in self.cells})

    @property
    def label_ratios(self) -> list[float]:
        """Rising."""
        return sorted({cell.label_ratio for cell in self.cells})

    @property
    def ceiling(self) -> float:
        """The best test CIoU with all labels; 0 where there is none."""
        return max((cell.test_ciou for cell in self.cells if cell.label_ratio == 1), default=0.0)

    def folder(self, stage: str, cell: Cell) -> Path:
        """What a stage (``train``, ``evaluate``) has left of a cell."""
        method = f"{cell.scores.framework}-{cell.scores.objective}"
        return self.layout.base / stage / str(cell.label_ratio) / method / str(cell.scores.seed)

    def curves(self, cell: Cell) -> list[dict[str, str]]:
        """The epochs of a cell's training, values as they were written; empty where an epoch has none."""
        with (self.folder("train", cell) / "curves.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def format_ratio(ratio: float) -> str:
    """A label ratio in per cent: "3 %", with a space that does not break."""
    return f"{100 * ratio:g}\N{NO-BREAK SPACE}%"


def format_percent(value: float | None) -> str:
    """A share in per cent, to one decimal; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"
