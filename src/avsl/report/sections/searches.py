"""What searches found, and how much of it was luck."""

from __future__ import annotations

import json

from avsl.report.comparison import Comparison, format_percent, format_ratio
from avsl.report.page import Section, Table


def searches(comparison: Comparison) -> Section | None:
    """The best trials of each search, with their scores over seeds; None where no search has confirmed any."""
    base, tables = comparison.layout.base, []
    for path in sorted(base.parent.glob(f"sweep/*/{base.name}/search/*/result.json")):
        result = json.loads(path.read_text())
        frameworks = {trial["number"]: trial["framework"] for trial in result["trials"]}
        rows = [
            [
                str(trial["trial"]),
                frameworks[trial["trial"]],
                format_percent(next(iter(trial["scores"].values()))),
                str(len(trial["scores"])),
                format_percent(trial["mean"]),
                f"{100 * trial['luck']:+.1f}",
            ]
            for trial in result.get("confirmed", [])  # an earlier version confirmed none
        ]
        if rows:
            caption = f"Search {path.parts[-5]} at {format_ratio(result['label_ratio'])} labels, validation, per cent"
            columns = ("trial", "framework", "in the search", "seeds", "mean over seeds", "luck")
            tables.append(Table(caption, columns, rows, frozenset({"framework"})))
    if not tables:
        return None
    return Section(
        "Searches",
        [
            "The best trials of a search were trained again with other seeds, and the best mean won. Luck is the score "
            "in the search less the mean over the other seeds: the best of many single trainings was chosen for it."
        ],
        tables=tables,
    )
