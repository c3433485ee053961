"""Which model is better: every seed, what is not told apart, and what each point cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avsl.report.comparison import Comparison, Verdicts, format_percent, format_ratio, join
from avsl.report.page import Picture, Section, Table, embed_figure
from avsl.viz.seeds import Panel, Row, plot_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORDS = frozenset({"first", "second", "difference (95 % interval)", "first is"})


def verdicts(comparison: Comparison) -> Section:
    """Every seed of every model, drawn by label ratio, and the table of pairs."""
    seeds = sorted({len(cell.trainings) for cell in comparison.cells})
    picture = Picture(
        embed_figure(draw_verdicts(comparison)),
        "Test CIoU of every seed",
        "Test CIoU of every seed by label ratio: " + "; ".join(_spoken(of) for of in comparison.verdicts),
        "Each dot is a training, the bar their mean, the line its 95 % interval over seeds and test recordings. Models "
        "joined at the right are not told apart. What each cost: over a panel the boxes, at the right the time of one "
        "training.",
    )
    paragraphs = [
        "A difference is paired: both models with the same seeds, labeled clips and test rows. It is called better or "
        "worse where it would be there with other seeds and other recordings (permutation and t test, p at most 0.05 "
        "after Holm's correction over the pairs of a ratio). Where it is not, the table says how many further seeds, "
        "or further test clips, would tell a difference of this size four times in five."
    ]
    if seeds == [1]:
        paragraphs.append(
            "One seed each: intervals and p-values are of other test rows alone, and of two trainings, not of methods. "
            "For a verdict, train more (`matrix.seeds` in params.yaml)."
        )
    tables = []
    for of_ratio in comparison.verdicts:
        label = f"{100 * of_ratio.label_ratio:g} %"
        rows = [row for row in comparison.pairs if row["labels"] == label]
        if rows:
            columns = [key for key in rows[0] if key != "labels"]
            cells = [[str(row[key]) for key in columns] for row in rows]
            caption = f"Pairs at {format_ratio(of_ratio.label_ratio)} labels, differences of test CIoU in points"
            tables.append(Table(caption, columns, cells, _WORDS))
    return Section("Which is better", paragraphs, [picture], tables)


def draw_verdicts(comparison: Comparison) -> Figure:
    """A panel for each label ratio, its models by falling mean."""
    validation = comparison.cells[0].first.scores.validation.n
    panels = [
        Panel(
            f"{format_ratio(of_ratio.label_ratio)} labels: boxes of {of_ratio.cells[0].first.run.labeled:,} training "
            f"and {validation:,} validation clips",
            {
                cell.model: Row(
                    [100 * training.scores.test.scores["ciou"] for training in cell.trainings.values()],
                    100 * cell.test.mean,
                    (100 * cell.test.low, 100 * cell.test.high),
                    _time(cell.train_seconds),
                )
                for cell in of_ratio.cells
            },
            of_ratio.groups,
        )
        for of_ratio in comparison.verdicts
    ]
    legend = (
        "dots: seeds; bars: their means; lines: 95 % intervals; joined: not told apart\n"
        "right: time of one training, without the start that it shares"
    )
    return plot_seeds(panels, f"test CIoU@0.5, fixed threshold (%)\n{legend}", comparison.models)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _spoken(of_ratio: Verdicts) -> str:
    means = ", ".join(f"{cell.model} {format_percent(cell.test.mean)}" for cell in of_ratio.cells)
    joined = "".join(f"; {join(group)} are not told apart" for group in of_ratio.groups)
    return f"{format_ratio(of_ratio.label_ratio)}: {means}{joined}"
