"""The sections of the page, one file each; a new one is a function and a line here. None leaves a section out."""

from collections.abc import Callable, Sequence
from typing import Final

from avsl.report.comparison import Comparison
from avsl.report.page import Section
from avsl.report.sections.breakdowns import breakdowns
from avsl.report.sections.controls import controls
from avsl.report.sections.curves import training_curves
from avsl.report.sections.data_card import data_card
from avsl.report.sections.forecasts import forecasts
from avsl.report.sections.galleries import galleries
from avsl.report.sections.overview import accuracy, frameworks_by_objectives
from avsl.report.sections.runs import runs
from avsl.report.sections.searches import searches
from avsl.report.sections.verdicts import verdicts

SECTIONS: Final[Sequence[Callable[[Comparison], Section | None]]] = (
    verdicts,
    accuracy,
    forecasts,
    frameworks_by_objectives,
    controls,
    breakdowns,
    training_curves,
    galleries,
    searches,
    data_card,
    runs,
)
