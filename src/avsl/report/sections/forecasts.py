"""How many labels a score needs, from the learning curve of every model with three numbers of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from avsl.report.comparison import Comparison, join
from avsl.report.page import Picture, Section, Table, embed_figure
from avsl.statistics.learning_curve import FAR, FEWEST, BackTest, Forecast, Run, back_test, forecast
from avsl.viz.curves import PALETTE, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 0.6
"""The CIoU about which a forecast answers where nobody names another."""

CAPTION = f"CIoU@0.5 on test, 95 % intervals; '?' marks more than {FAR:g} times the labels seen, a guess"
_TITLE = "How many labels are enough"
PAST = "Forecasts of the past: from fewer labels, what the runs with more would have been"


@dataclass(frozen=True)
class Answer:
    """What the runs of one model say of further labels.

    Attributes:
        model: its name.
        runs: of at least three numbers of labels.
        target: CIoU in (0, 1).
        more: labels added to the most that a run had; None for as many again.
    """

    model: str
    runs: Sequence[Run]
    target: float = TARGET
    more: int | None = None

    @cached_property
    def made(self) -> Forecast:
        """The fitted curve and its resamples."""
        return forecast(self.runs)

    @cached_property
    def past(self) -> list[BackTest]:
        """Forecasts from fewer labels; none of three numbers of labels."""
        return back_test(self.runs)

    @property
    def added(self) -> int:
        """Labels added to the most that a run had."""
        return self.made.most if self.more is None else self.more

    def sentence(self) -> str:
        """The answer to both questions, and how far such forecasts were off."""
        made, then = self.made, self.made.most + self.added
        score, low, high = made.score(then)
        needed = made.labels(self.target)[0]
        if math.isinf(needed):
            reached = f"is out of reach: the curve ends at {made.curve.limit:.3f}"
        else:
            reached = f"needs {_count(made, self.target)} labels"
        said = f"{self.model}: CIoU {self.target:g} {reached}; "
        said += f"{self.added:,} more than {made.most:,} would bring {score:.3f} ({low:.3f} to {high:.3f})"
        far = [f"{math.ceil(n):,}" for n in (needed, then) if math.isfinite(n) and made.is_far(n)]
        if far:
            said += f"; a guess at {join(far)} labels, more than {FAR:g} times the {made.most:,} seen"
        return f"{said}. {self._errors()}"

    def _errors(self) -> str:
        if not self.past:
            return f"Not tested on the past: that takes {FEWEST + 1} numbers of labels, the runs have {FEWEST}."
        errors = [test.forecast - test.measured for test in self.past]
        held = sum(test.low <= test.measured <= test.high for test in self.past)
        return (
            f"{len(errors)} forecasts of the past were {fmean(map(abs, errors)):.3f} off on average and "
            f"{max(map(abs, errors)):.3f} at most; {held} of the measured scores lay in their intervals."
        )

    def row(self) -> dict[str, str]:
        """The answer as a row of a table."""
        made, then = self.made, self.made.most + self.added
        score, low, high = made.score(then)
        best = fmean(run.score for run in self.runs if run.labels == made.most)
        return {
            "method": self.model,
            "runs": str(len(self.runs)),
            "most labels": f"{made.most:,}",
            "their CIoU": f"{best:.3f}",
            f"labels for {self.target:g}": _needed(made, self.target),
            f"CIoU with {self.added:,} more": f"{score:.3f} ({low:.3f} to {high:.3f})" + _mark(made.is_far(then)),
        }

    def past_rows(self) -> list[dict[str, str]]:
        """The forecasts of the past as rows of a table."""
        return [
            {
                "method": self.model,
                "from up to": f"{test.seen:,}",
                "for": f"{test.labels:,}" + _mark(test.labels > FAR * test.seen),
                "forecast": f"{test.forecast:.3f} ({test.low:.3f} to {test.high:.3f})",
                "measured": f"{test.measured:.3f}",
                "error": f"{test.forecast - test.measured:+.3f}",
            }
            for test in self.past
        ]

    def metrics(self) -> dict[str, float]:
        """The finite figures by name, for MLflow."""
        names = ("", "_low", "_high")
        found = dict(zip((f"labels_for_target{end}" for end in names), self.made.labels(self.target), strict=True))
        score = self.made.score(self.made.most + self.added)
        found |= dict(zip((f"ciou_with_more{end}" for end in names), score, strict=True))
        found |= {"most_labels": self.made.most, "limit": self.made.curve.limit}
        if self.past:
            found["past_error"] = fmean(abs(test.forecast - test.measured) for test in self.past)
        return {f"{self.model}/{name}": value for name, value in found.items() if math.isfinite(value)}


def _mark(is_far: bool) -> str:
    return " ?" if is_far else ""


def _count(made: Forecast, target: float) -> str:
    needed, low, high = made.labels(target)
    upper = "never" if math.isinf(high) else f"{math.ceil(high):,}"
    return f"{math.ceil(needed):,} ({math.ceil(low):,} to {upper})"


def _needed(made: Forecast, target: float) -> str:
    needed, low, _ = made.labels(target)
    if math.isinf(needed):
        return f"never: the curve ends at {made.curve.limit:.3f}" + ("" if math.isinf(low) else f", from {low:,.0f}")
    return _count(made, target) + _mark(made.is_far(needed))


def draw_forecasts(answers: Sequence[Answer]) -> Figure:
    """Draw runs and curves up to four times the largest number of labels, dashed beyond the runs.

    Args:
        answers: at least one, all about the same target.
    """
    figure = new_figure(7.5, 4.2)
    axes = figure.add_subplot()
    for index, answer in enumerate(answers):
        made, color = answer.made, PALETTE[index % len(PALETTE)]
        axes.plot([run.labels for run in answer.runs], [run.score for run in answer.runs], "o", ms=4, color=color)
        fewest = min(run.labels for run in answer.runs)
        seen, ahead = np.geomspace(fewest, made.most, 60), np.geomspace(made.most, FAR * made.most, 60)
        axes.plot(seen, [made.curve.score(n) for n in seen], color=color, label=answer.model)
        axes.plot(ahead, [made.curve.score(n) for n in ahead], "--", color=color)
        whole = np.concatenate([seen, ahead])
        _, low, high = np.transpose([made.score(n) for n in whole])
        axes.fill_between(whole, low, high, color=color, alpha=0.15, linewidth=0)
    axes.axhline(answers[0].target, linestyle=":", color="gray", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("labeled training samples")
    axes.set_ylabel("CIoU@0.5 on test")
    axes.set_ylim(0, 1)
    dress(axes)
    axes.legend(fontsize=8, frameon=False)
    return figure


def forecasts(comparison: Comparison) -> Section | None:
    """The learning curves, their answers and, for a folder that is being labeled, the next command.

    None where no model has runs of three numbers of labels and no folder is labeled.
    """
    labeled_here = comparison.data.manifest.name == "folder"
    runs: dict[str, list[Run]] = {}
    for cell in comparison.cells:
        for training in cell.trainings.values():
            test = training.scores.test
            runs.setdefault(cell.model, []).append(Run(training.run.labeled, test.scores["ciou"], test.n))
    answers = [Answer(model, own) for model, own in sorted(runs.items()) if has_curve(own)]
    if not answers:
        command = "avsl labels forecast --probe"
        said = f"No model was trained with {FEWEST} numbers of labels, which a learning curve needs; next: {command}"
        return Section(_TITLE, [said]) if labeled_here else None
    sentences = [answer.sentence() for answer in answers]
    if labeled_here:
        added = max(answer.added for answer in answers)
        sentences.append(f"Next, to label as many again: avsl labels suggest --budget {added}")
    picture = Picture(
        embed_figure(draw_forecasts(answers)),
        "Learning curves",
        "Test CIoU over the number of labels, a curve for each of " + join([answer.model for answer in answers]),
        "Dots: trainings. Lines: power law with offset; dashed: more labels than any run had, up to "
        f"{FAR:g} times. Bands: 95 % intervals, from resampled runs. Dotted: CIoU {TARGET:g}.",
    )
    tables = [_table(CAPTION, [answer.row() for answer in answers])]
    if past := [row for answer in answers for row in answer.past_rows()]:
        tables.append(_table(PAST, past))
    return Section(_TITLE, sentences, [picture], tables)


def has_curve(runs: Sequence[Run]) -> bool:
    """Return whether there are enough numbers of labels for a learning curve."""
    return len({run.labels for run in runs}) >= FEWEST


def _table(caption: str, rows: Sequence[Mapping[str, str]]) -> Table:
    return Table(caption, list(rows[0]), [list(row.values()) for row in rows], frozenset({"method"}))
