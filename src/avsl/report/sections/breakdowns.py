"""Scores by test part, size and class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from avsl.data.prepared.format import PARTS
from avsl.records import EvaluationRecord
from avsl.report.comparison import Comparison, format_percent, format_ratio
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
        figures: Callable[[EvaluationRecord], Mapping[str, Mapping[str, float]]],
        *,
        folded: bool = False,
    ) -> Table:
        """Kinds of rows down, models across, means over the seeds."""
        rows = []
        for kind in kinds:

            def read(record: EvaluationRecord, key: str, kind: str = kind) -> float | None:
                return figures(record).get(kind, {}).get(key)

            for key, what in (("ciou", ""), ("iiou", ", IIoU"), ("false_positive_rate", ", false positives")):
                means = [cell.mean(partial(read, key=key)) for cell in cells]
                if any(mean is not None for mean in means):
                    n = "n_silent" if key == "false_positive_rate" else "n"
                    known = next(cell for cell, mean in zip(cells, means, strict=True) if mean is not None)
                    counted = str(read(known.first.scores, n))
                    rows.append([_PARTS.get(kind, kind) + what, counted, *map(format_percent, means)])
        models = [f"{cell.model} {format_ratio(cell.label_ratio)}" for cell in cells]
        return Table(caption, ["rows", "n", *models], rows, folded=folded)

    def parts(record: EvaluationRecord) -> Mapping[str, Mapping[str, float]]:
        return {part: {**found.counts, **found.scores} for part, found in record.parts.items()}

    def by_size(record: EvaluationRecord) -> Mapping[str, Mapping[str, float]]:
        return {size: found.model_dump() for size, found in (record.test.by_size or {}).items()}

    def by_class(record: EvaluationRecord) -> Mapping[str, Mapping[str, float]]:
        return {name: found.model_dump() for name, found in (record.test.by_class or {}).items()}

    sizes = list(dict.fromkeys(kind for cell in cells for kind in by_size(cell.first.scores)))
    classes = sorted({kind for cell in cells for kind in by_class(cell.first.scores)})
    return Section(
        "Where it works and where not",
        [
            "CIoU, per cent, at the same threshold everywhere, means over the seeds. IIoU counts a frame only if "
            "every one of its sounds is found. False positives are rows without a source in view where something is "
            "marked all the same: the lower the better.",
        ],
        tables=[
            table("By test part", PARTS, parts),
            table("By size of the source, test part", sizes, by_size),
            table(f"By class, test part ({len(classes)} classes)", classes, by_class, folded=True),
        ],
    )
