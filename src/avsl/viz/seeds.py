"""Plots methods over their seeds: a dot for each seed, and a line that joins methods that are not told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avsl.viz.curves import PALETTE, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distance of two joining lines, as a share of a panel's width.
_STEP: Final = 0.03


@dataclass(frozen=True)
class Row:
    """A method in a panel.

    Attributes:
        scores: of its seeds.
        mean: drawn as a bar across the dots.
        interval: drawn as a line; NaN where there is none.
        note: stands at the right.
    """

    scores: Sequence[float]
    mean: float
    interval: tuple[float, float]
    note: str


@dataclass(frozen=True)
class Panel:
    """Methods that are compared with each other.

    Attributes:
        title: stands over it.
        rows: by method, from top to bottom.
        groups: methods joined by a line.
    """

    title: str
    rows: Mapping[str, Row]
    groups: Sequence[Sequence[str]]


def plot_seeds(panels: Sequence[Panel], xlabel: str, order: Sequence[str]) -> Figure:
    """Draw panels below each other, on one axis of scores.

    Args:
        panels: at least one.
        xlabel: the score's name.
        order: all methods, in the order that gives them their colors.

    Raises:
        ValueError: there is no panel, or one without a row.
    """
    if not panels or not all(panel.rows for panel in panels):
        raise ValueError("a figure of seeds needs at least one panel, each with at least one row")
    heights = [len(panel.rows) + 0.9 for panel in panels]
    figure = new_figure(8.0, 0.9 + 0.34 * sum(heights))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    right = 1 + _STEP * (1 + max(len(panel.groups) for panel in panels))
    for axes, panel in zip(grid, panels, strict=True):
        names = list(panel.rows)
        for place, (name, row) in enumerate(panel.rows.items()):
            color = PALETTE[order.index(name) % len(PALETTE)]
            axes.plot(row.interval, [place, place], "-", color=color, linewidth=1.5, alpha=0.6)
            axes.plot([row.mean], [place], "|", color=color, markersize=13, markeredgewidth=2.5)
            axes.plot(row.scores, [place] * len(row.scores), "o", color=color, markersize=5, alpha=0.75)
            aside = axes.get_yaxis_transform()
            axes.text(right, place, row.note, transform=aside, va="center", fontsize=9, color="0.3")
        for number, group in enumerate(panel.groups):
            places = [names.index(name) for name in group]
            x = 1 + _STEP * (number + 0.7)
            (line,) = axes.plot(
                [x] * len(places), places, "o-", color="0.25", markersize=3, transform=axes.get_yaxis_transform()
            )
            line.set_clip_on(False)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(panel.title, loc="left", fontsize=10)
        dress(axes, "x")
    grid[-1].set_xlabel(xlabel)
    return figure
