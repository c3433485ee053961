"""Scores by test part, size and class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from avsl.data.prepared.format import PARTS
from avsl.report.comparison import Cell, Comparison, format_percent, format_ratio
from avsl.report.page import Section, Table

_PARTS: Final = {
    "test": "test",
    "test_small": "small sources",
    "test_duet": "two sources at once",
    "test_offscreen": "no source in view",
    "test_swap": "one frame, several sounds",
    "test_unheard": "classes without labels",
}


def breakdowns(comparison: Comparison) -> Section:
    """Scores of every model by test part, by size of the source and by class."""
    cells = comparison.cells

    def table(
        caption: str,
        kinds: Iterable[str],
        figures: Callable[[Cell], Mapping[str, Mapping[str, float]]],
        *,
        folded: bool = False,
    ) -> Table:
        """Kinds of rows down, models across."""
        rows = []
        for kind in kinds:
            of_kind = [figures(cell).get(kind, {}) for cell in cells]
            for key, what in (("ciou", ""), ("iiou", ", IIoU"), ("false_positive_rate", ", false positives")):
                if any(key in found for found in of_kind):
                    count = "n_silent" if key == "false_positive_rate" else "n"
                    n = next(str(found[count]) for found in of_kind if key in found)
                    named = _PARTS.get(kind, kind) + what
                    rows.append([named, n, *(format_percent(found.get(key)) for found in of_kind)])
        models = [f"{cell.model} {format_ratio(cell.label_ratio)}" for cell in cells]
        return Table(caption, ["rows", "n", *models], rows, folded=folded)

    def parts(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {part: {**found.counts, **found.scores} for part, found in cell.scores.parts.items()}

    def by_size(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {size: found.model_dump() for size, found in (cell.scores.test.by_size or {}).items()}

    def by_class(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {name: found.model_dump() for name, found in (cell.scores.test.by_class or {}).items()}

    sizes = list(dict.fromkeys(kind for cell in cells for kind in by_size(cell)))
    classes = sorted({kind for cell in cells for kind in by_class(cell)})
    return Section(
        "Where it works and where not",
        [
            "CIoU, per cent, at the same threshold everywhere. IIoU counts a frame only if every one of its sounds is "
            "found. False positives are rows without a source in view where something is marked all the same: the "
            "lower the better.",
        ],
        tables=[
            table("By test part", PARTS, parts),
            table("By size of the source, test part", sizes, by_size),
            table(f"By class, test part ({len(classes)} classes)", classes, by_class, folded=True),
        ],
    )
