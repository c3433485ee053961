"""The comparison's page, from what the stages left; of the test rows it reads scores alone."""

from __future__ import annotations

from collections.abc import Sequence

from avsl.report.comparison import Cell, Comparison, format_percent, format_ratio
from avsl.report.page import render
from avsl.report.sections import SECTIONS


def make_page(comparison: Comparison) -> str:
    """The page's HTML.

    Raises:
        DataError: what an earlier stage leaves is missing, or evaluations of one ratio differ in their rows.
    """
    title = f"Audio-visual source localization on {comparison.data.manifest.name}"
    return render(title, [_lead(comparison.cells)], [section(comparison) for section in SECTIONS])


def _lead(cells: Sequence[Cell]) -> str:
    """The best model of each ratio, as the registry chooses it."""
    best: dict[float, Cell] = {}
    for cell in cells:
        held = best.setdefault(cell.label_ratio, cell)
        if cell.scores.validation.scores["ciou"] > held.scores.validation.scores["ciou"]:
            best[cell.label_ratio] = cell
    named = [
        f"{cell.model} at {format_ratio(cell.label_ratio)}, test CIoU {format_percent(cell.test_ciou)} % "
        f"({cell.interval[0]:.1f} to {cell.interval[1]:.1f})"
        for cell in best.values()
    ]
    return f"{len(cells)} models. Best on validation at each share of labels: {'; '.join(named)}."
