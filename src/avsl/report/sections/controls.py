"""What a model owes to the sound, to its second member and to its labels."""

from __future__ import annotations

from avsl.report.comparison import NEGATIVES, Comparison, format_percent, format_ratio
from avsl.report.page import Section, Table


def controls(comparison: Comparison) -> Section:
    """Scores with wrong sounds and sounds of nothing in view, of the members alone, and against the ceiling."""
    ceiling = comparison.ceiling
    rows = []
    for cell in comparison.cells:
        ciou = cell.test.mean
        shuffled = cell.mean_test("ciou_shuffled")
        alone = cell.mean(lambda record: max((m.test.scores["ciou"] for m in record.members), default=None))
        rows.append(
            [
                cell.model,
                format_ratio(cell.label_ratio),
                format_percent(ciou),
                format_percent(shuffled),
                "" if shuffled is None else f"{100 * (ciou - shuffled):+.1f}",
                *(format_percent(cell.mean_test(key)) for key in NEGATIVES),
                format_percent(alone),
                f"{100 * ciou / ceiling:.0f} %" if ceiling else "",
            ]
        )
    negatives = [f"boxed at {sound}" for sound in NEGATIVES.values()]
    columns = (
        *("model", "labels", "CIoU", "sounds shuffled", "owed to the sound"),
        *(*negatives, "better member alone", "of ceiling"),
    )
    return Section(
        "Controls and ceiling",
        [
            "With shuffled sounds every frame hears another row's: what a model keeps then, it sees without listening. "
            "With silence, noise or the sound of something out of view no box is right: the share of frames that get "
            "one all the same, at the threshold that scores. A framework with two students is scored as the mean of "
            "their maps; beside it, the better of the two alone. The ceiling is the model trained with all labels. "
            "All are means over the seeds.",
        ],
        tables=[Table("Test part, per cent", columns, rows, frozenset({"labels"}))],
    )
