"""Test scores over the labeled share, and frameworks over objectives."""

from __future__ import annotations

import math

from avsl.report.comparison import Cell, Comparison, format_percent, format_ratio, format_summary
from avsl.report.page import Picture, Section, Table, embed_figure
from avsl.viz.curves import plot_label_curve


def accuracy(comparison: Comparison) -> Section:
    """Test scores of every model, drawn over the labeled share and as a table."""
    cells, rows = comparison.cells, comparison.rows
    scores: dict[str, dict[float, list[float]]] = {name: {} for name in comparison.models}
    intervals: dict[str, dict[float, tuple[float, float]]] = {name: {} for name in scores}
    for cell in cells:
        scores[cell.model][cell.label_ratio] = [100 * cell.test.mean]
        if not math.isnan(cell.test.low):
            intervals[cell.model][cell.label_ratio] = (100 * cell.test.low, 100 * cell.test.high)
    figure = plot_label_curve(scores, "test CIoU@0.5, fixed threshold (%)", comparison.baselines, intervals)
    picture = Picture(
        embed_figure(figure),
        "Test CIoU over the labeled share",
        "Curves of test CIoU over the labeled share, one for each model: "
        + "; ".join(
            f"{name} " + ", ".join(f"{of_ratio[ratio][0]:.1f} at {format_ratio(ratio)}" for ratio in sorted(of_ratio))
            for name, of_ratio in scores.items()
        ),
        f"Means over seeds, with 95 % intervals over seeds and {cells[0].first.scores.test.n:,} test rows (of a single "
        "seed over rows alone). Dashed: what needs no model. Points of one ratio stand side by side.",
    )
    words = frozenset({"objective", "labels", "OGL", "n of N", "95 % interval", "which seeds"})
    table = Table(
        "Test part, per cent, means over the seeds; threshold chosen on validation",
        list(rows[0]),
        [[str(row[key]) for key in rows[0]] for row in rows],
        words & set(rows[0]),
    )
    return Section(
        "Accuracy",
        [
            "CIoU is the share of test rows whose map overlaps the annotated boxes with a cIoU of at least 0.5, at one "
            "fixed threshold on the absolute confidence. The median convention takes the most confident half of the "
            "pixels, as EZ-VSL and FNAC do; the oracle binarizes each map at the true area and never selects a model. "
            "OGL mixes in an object prior, whatever the sound. Boxed at: the share of test frames given a box, at the "
            "threshold that scores, with silence, with noise, and with the sound of something that is not in view; a "
            "model that listens gives none.",
        ],
        [picture],
        [table],
    )


def frameworks_by_objectives(comparison: Comparison) -> Section:
    """Frameworks down, objectives across, a table for each label ratio."""
    cells = comparison.cells
    objectives = sorted({cell.objective for cell in cells})
    aside = [[name, *[f"{value:.1f}"] * len(objectives)] for name, value in comparison.baselines.items()]
    if ceiling := comparison.ceiling:
        aside.append(["the best with all labels", *[format_percent(ceiling)] * len(objectives)])
    tables = []
    for ratio in comparison.label_ratios:
        found = {(c.framework, c.objective): c for c in cells if c.label_ratio == ratio}
        rows = [
            [framework, *(_with_interval(found.get((framework, objective))) for objective in objectives)]
            for framework in sorted({framework for framework, _ in found})
        ]
        columns = ("framework", *objectives)
        tables.append(Table(f"Test CIoU at {format_ratio(ratio)} labels, per cent", columns, rows + aside))
    return Section(
        "Frameworks and objectives",
        [
            "What learns from the labels, down, over what learns from the unlabeled clips, across: means over seeds "
            "with their 95 % intervals."
        ],
        tables=tables,
    )


def _with_interval(cell: Cell | None) -> str:
    return "" if cell is None else format_summary(cell.test)
