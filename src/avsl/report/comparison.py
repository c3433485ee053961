"""What the report compares, and how its figures are written."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from avsl.data.prepared.reader import PreparedData
from avsl.paths import Layout
from avsl.records import EvaluationRecord, RunRecord
from avsl.statistics import Needed, Pair, Summary, plan, tied_groups

# Share of frames given a box with a sound that no source in view makes, by its key among the scores.
NEGATIVES = {"boxed_silence": "silence", "boxed_noise": "noise", "boxed_offscreen": "off-screen sound"}


@dataclass(frozen=True)
class Training:
    """One seed of a cell.

    Attributes:
        run: the training.
        scores: its evaluation.
        trained: folder of what the training left.
        evaluation: folder of what the evaluation left.
    """

    run: RunRecord
    scores: EvaluationRecord
    trained: Path
    evaluation: Path

    @property
    def curves(self) -> list[dict[str, str]]:
        """The epochs, values as they were written; empty where an epoch has none."""
        with (self.trained / "curves.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@dataclass(frozen=True)
class Cell:
    """A framework over an objective at a label ratio, trained with one or more seeds.

    Attributes:
        model: its name in tables and figures: the framework, with the objective where there are several.
        trainings: by seed, rising; at least one.
        test: CIoU@0.5 on the part ``test``, in [0, 1]: mean, SD and interval over seeds and recordings.
    """

    model: str
    trainings: Mapping[int, Training]
    test: Summary

    @property
    def first(self) -> Training:
        """The training with the lowest seed, for what all seeds share."""
        return next(iter(self.trainings.values()))

    @property
    def framework(self) -> str:
        """Its name."""
        return self.first.run.framework

    @property
    def objective(self) -> str:
        """Its name."""
        return self.first.run.objective

    @property
    def label_ratio(self) -> float:
        """In (0, 1]."""
        return self.first.run.label_ratio

    @property
    def best(self) -> Training:
        """The training with the highest validation score, the first of equals."""
        return max(self.trainings.values(), key=lambda training: training.scores.validation.scores["ciou"])

    @property
    def train_seconds(self) -> float:
        """Of a training, on average."""
        return fmean(training.run.train_seconds for training in self.trainings.values())

    def mean(self, score: Callable[[EvaluationRecord], float | None]) -> float | None:
        """The mean of a score over the seeds; None where a seed does not have it."""
        return _mean(score(training.scores) for training in self.trainings.values())

    def mean_test(self, name: str, *, guided: bool = False) -> float | None:
        """The mean over the seeds of a score of the part ``test``, by its name; None where a seed does not have it.

        With ``guided`` of the model with the object prior.
        """
        of = [training.scores.ogl if guided else training.scores for training in self.trainings.values()]
        return _mean(None if scores is None else scores.test.scores.get(name) for scores in of)

    @property
    def guided(self) -> bool:
        """Whether every seed was scored with an object prior (OGL) too."""
        return all(training.scores.ogl is not None for training in self.trainings.values())

    def mean_curve(self, name: str) -> list[tuple[float, float]]:
        """(epoch, mean over the seeds) of a training's curve, at the epochs where every seed has a value."""
        values: dict[float, list[float]] = {}
        for training in self.trainings.values():
            for line in training.curves:
                if line.get(name):
                    values.setdefault(float(line["epoch"]), []).append(float(line[name]))
        return [(epoch, fmean(of)) for epoch, of in sorted(values.items()) if len(of) == len(self.trainings)]


@dataclass(frozen=True)
class Verdicts:
    """The methods of one label ratio against each other.

    Attributes:
        label_ratio: in (0, 1].
        cells: those with the most seeds first, by falling mean.
        pairs: of models in the order of the cells, each with its verdict; none of a single model.
    """

    label_ratio: float
    cells: Sequence[Cell]
    pairs: Sequence[Pair]

    @property
    def groups(self) -> list[list[str]]:
        """The groups of models that the tests do not tell apart."""
        return tied_groups(self.pairs)

    def needed(self, pair: Pair) -> Needed:
        """What would tell a difference of this size, if the pair is not told apart."""
        return plan(pair.difference, pairs=len(self.pairs))

    def answer(self) -> str:
        """One sentence: the best model, what it is better than by how much, and what it is not told apart from."""
        best, seeds = self.cells[0], len(self.cells[0].trainings)
        named = f"{format_ratio(self.label_ratio)}: {best.model}"
        mean = f"{format_summary(best.test)} over {count(seeds, 'seed')}"
        if len(self.cells) == 1:
            return f"{named}, {mean}; no other model at this ratio"
        if seeds == 1:
            return f"{named} has the highest CIoU, {mean}; no verdict on methods, as each has one seed"
        of_best = [pair for pair in self.pairs if pair.first == best.model]
        tied = [pair.second for pair in of_best if pair.verdict == "not told apart"]
        fewer = [cell.model for cell in self.cells if len(cell.trainings) < seeds]
        better = next((pair for pair in of_best if pair.verdict == "better"), None)
        parts = [f"{named} has the highest mean, {mean}"]
        if better:
            parts = [f"{named}, {format_difference(better.difference)} over {better.second}"]
        if tied:
            parts.append(f"not told apart from {join(tied)}")
        if fewer:
            parts.append(f"{join(fewer)} with fewer seeds")
        return "; ".join(parts)


@dataclass(frozen=True)
class Comparison:
    """All evaluated models of a data set.

    Attributes:
        layout: where all of it lies.
        cells: by label ratio, framework and objective; at least one.
        verdicts: of each label ratio, rising.
        rows: of the comparison's table.
        pairs: rows of the table of pairs.
        baselines: test CIoU in per cent of what needs no model, by name.
    """

    layout: Layout
    cells: Sequence[Cell]
    verdicts: Sequence[Verdicts]
    rows: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
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
        return [verdicts.label_ratio for verdicts in self.verdicts]

    @property
    def ceiling(self) -> float:
        """The best mean test CIoU with all labels; 0 where there is none."""
        return max((cell.test.mean for cell in self.cells if cell.label_ratio == 1), default=0.0)


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else fmean(value for value in known if value is not None)


def format_ratio(ratio: float) -> str:
    """A label ratio in per cent: "3 %", with a space that does not break."""
    return f"{100 * ratio:g}\N{NO-BREAK SPACE}%"


def format_percent(value: float | None) -> str:
    """A share in per cent, to one decimal; empty for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def format_interval(summary: Summary) -> str:
    """The interval of a score in per cent, "2.2 to 8.0", within 0 to 100; empty where there is none."""
    return _interval(summary, 0.0)


def _interval(summary: Summary, lowest: float) -> str:
    if math.isnan(summary.low):
        return ""
    return f"{100 * max(summary.low, lowest):.1f} to {100 * min(summary.high, 1.0):.1f}"


def format_summary(summary: Summary) -> str:
    """The mean of a score in per cent with its interval, "69.2 (65.1 to 73.0)"."""
    interval = format_interval(summary)
    return format_percent(summary.mean) + (f" ({interval})" if interval else "")


def format_difference(difference: Summary) -> str:
    """A difference in points with its interval, within -100 to 100: "+5.1 (2.2 to 8.0)"."""
    interval = _interval(difference, -1.0)
    return f"{100 * difference.mean:+.1f}" + (f" ({interval})" if interval else "")


def count(number: int, what: str) -> str:
    """A number of things: "1 seed", "3 seeds"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def join(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
