"""What a model owes to the sound, to its second member and to its labels."""

from __future__ import annotations

from avsl.report.comparison import Comparison, format_percent, format_ratio
from avsl.report.page import Section, Table


def controls(comparison: Comparison) -> Section:
    """Scores with the sounds shuffled, of the members alone, and against the ceiling."""
    ceiling = comparison.ceiling
    rows = []
    for cell in comparison.cells:
        alone = [member.test.scores["ciou"] for member in cell.scores.members]
        shuffled = cell.scores.test.scores.get("ciou_shuffled")
        rows.append(
            [
                cell.model,
                format_ratio(cell.label_ratio),
                format_percent(cell.test_ciou),
                format_percent(shuffled),
                "" if shuffled is None else f"{100 * (cell.test_ciou - shuffled):+.1f}",
                format_percent(max(alone, default=None)),
                f"{100 * cell.test_ciou / ceiling:.0f} %" if ceiling else "",
            ]
        )
    columns = ("model", "labels", "CIoU", "sounds shuffled", "owed to the sound", "better member alone", "of ceiling")
    return Section(
        "Controls and ceiling",
        [
            "With shuffled sounds every frame hears another row's: what a model keeps then, it sees without listening. "
            "A framework with two students is scored as the mean of their maps; beside it, the better of the two "
            "alone. The ceiling is the model trained with all labels.",
        ],
        tables=[Table("Test CIoU, per cent", columns, rows, frozenset({"labels"}))],
    )
