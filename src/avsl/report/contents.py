"""The comparison's page, from what the stages left; of the test rows it reads scores alone."""

from __future__ import annotations

from avsl.report.comparison import Comparison
from avsl.report.page import render
from avsl.report.sections import SECTIONS


def make_page(comparison: Comparison) -> str:
    """The page's HTML; it opens with the answer at each label ratio.

    Raises:
        DataError: what an earlier stage leaves is missing, or evaluations of one ratio differ in their rows.
    """
    title = f"Audio-visual source localization on {comparison.data.manifest.name}"
    lead = [f"{verdicts.answer()}." for verdicts in comparison.verdicts]
    sections = (section(comparison) for section in SECTIONS)
    return render(title, lead, [section for section in sections if section is not None])
