"""Validation and pseudo-labels over the epochs."""

from __future__ import annotations

from typing import Final

from avsl.report.comparison import Comparison, format_ratio
from avsl.report.page import Picture, Section, embed_figure
from avsl.viz.curves import plot_curves

_PSEUDO: Final = ("acceptance", "precision", "recall")


def training_curves(comparison: Comparison) -> Section:
    """Validation scores and the quality of pseudo-labels over the epochs."""
    models = comparison.models
    panels: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {"val": {}, "pseudo": {}}
    for cell in comparison.cells:
        wanted = [("val", "ciou", f"validation CIoU, {format_ratio(cell.label_ratio)}")]
        wanted += [("pseudo", name, f"{name}, {format_ratio(cell.label_ratio)}") for name in _PSEUDO]
        for kind, name, title in wanted:
            points = [(epoch, 100 * value) for epoch, value in cell.mean_curve(f"{kind}/{name}")]
            if points:
                # Every model in every panel, so that each keeps its color.
                panel = panels[kind].setdefault(title, {model: [] for model in models})
                panel[cell.model] = points
    pictures = [
        Picture(
            embed_figure(plot_curves(panels["val"])),
            "Validation over the epochs",
            f"Curves of validation CIoU over the epochs, a panel for each of {len(panels['val'])} label ratios.",
            "Validation CIoU at the best threshold of the epoch, per cent, over the epochs; means over the seeds.",
        )
    ]
    if panels["pseudo"]:
        pictures.append(
            Picture(
                embed_figure(plot_curves(panels["pseudo"])),
                "Quality of the pseudo-labels",
                "Curves of the pseudo-labels' acceptance, precision and recall over the epochs, by label ratio.",
                "Pseudo-labels over the epochs, per cent: rows accepted, and of the accepted rows' pixels the "
                "precision and the recall against boxes that training never sees.",
            )
        )
    return Section("Training", [], pictures)
