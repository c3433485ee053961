"""Figures of training curves and of methods over label ratios."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final, Literal

from avsl.files import whole_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers can distinguish; gray replaces black, which hides error bars.
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_STYLES: Final = ("-", "--", ":", "-.")
# Horizontal factor between two methods at one label ratio, so that error bars do not overlap.
_APART: Final = 1.03


def plot_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], xlabel: str = "epoch") -> Figure:
    """Draw named curves in panels beside each other, with one legend where all panels have curves of the same names.

    Args:
        panels: by the panel's title, the curves by name, each a list of (epoch, value) in rising order. A curve
            without points is not drawn, but keeps its color.
        xlabel: label of the horizontal axis.

    Raises:
        ValueError: there is no panel.
    """
    from matplotlib.ticker import MaxNLocator

    if not panels:
        raise ValueError("a figure of curves needs at least one panel")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(4.6 * columns, 3.4 * rows)
    alike = len({tuple(curves) for curves in panels.values()}) == 1
    drawn: dict[str, Artist] = {}
    for place, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for index, (name, points) in enumerate(curves.items()):
            if not points:
                continue
            style = _STYLES[index // len(PALETTE) % len(_STYLES)]
            x, y = [point[0] for point in points], [point[1] for point in points]
            # A single point has no line.
            marker = "o" if len(points) == 1 else None
            lines = axes.plot(x, y, style, color=PALETTE[index % len(PALETTE)], label=name, marker=marker)
            drawn.setdefault(name, lines[0])
        dress(axes)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.lines and not alike:
            axes.legend(fontsize=8, frameon=False)
    if drawn and alike:
        # Below the panels, where no curve is hidden.
        figure.legend(drawn.values(), drawn, loc="outside lower left", ncols=2 * columns, fontsize=9, frameon=False)
    return figure


def plot_label_curve(
    scores: Mapping[str, Mapping[float, Sequence[float]]],
    ylabel: str,
    lines: Mapping[str, float] | None = None,
    intervals: Mapping[str, Mapping[float, tuple[float, float]]] | None = None,
) -> Figure:
    """Draw methods as curves over label ratios: mean over seeds, and the standard deviation where there are several.

    Args:
        scores: by method and label ratio in (0, 1], the seeds' scores.
        ylabel: the score's name.
        lines: scores that need no label, as dashed lines.
        intervals: by method and label ratio, ends of an interval that replaces the seeds' standard deviation.

    Raises:
        ValueError: there is no score at all, or a method has a ratio without one.
    """
    ratios = sorted({ratio for of_method in scores.values() for ratio in of_method})
    if not ratios or any(not values for of_method in scores.values() for values in of_method.values()):
        raise ValueError("a label curve needs at least one score for each method and label ratio it names")
    figure = new_figure(7.5, 4.2)
    axes = figure.add_subplot()
    for index, (method, of_method) in enumerate(scores.items()):
        present = sorted(of_method)
        means = [fmean(of_method[ratio]) for ratio in present]
        below, above = [], []
        for ratio, mean in zip(present, means, strict=True):
            half = stdev(of_method[ratio]) if len(of_method[ratio]) > 1 else 0.0
            low, high = (intervals or {}).get(method, {}).get(ratio, (mean - half, mean + half))
            # An interval may not contain the mean, and matplotlib accepts no negative length.
            below.append(max(mean - low, 0.0))
            above.append(max(high - mean, 0.0))
        axes.errorbar(
            [ratio * _APART ** (index - (len(scores) - 1) / 2) for ratio in present],
            means,
            yerr=[below, above],
            fmt="o" + _STYLES[index // len(PALETTE) % len(_STYLES)],
            color=PALETTE[index % len(PALETTE)],
            markersize=4,
            capsize=3,
            label=method,
        )
    _draw_lines(axes, lines or {})
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{100 * ratio:g} %" for ratio in ratios])
    axes.minorticks_off()
    axes.set_xlabel("labeled share of the training data")
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    dress(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _draw_lines(axes: Axes, lines: Mapping[str, float]) -> None:
    for index, (name, value) in enumerate(lines.items()):
        style = _STYLES[1 + index % (len(_STYLES) - 1)]
        axes.axhline(value, linestyle=style, color="gray", linewidth=1, label=name)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's suffix, atomically; a missing folder is created."""
    with whole_file(path) as part:
        part.write_bytes(encode_figure(figure, path.suffix.removeprefix(".")))


def encode_figure(figure: Figure, kind: str) -> bytes:
    """Encode a figure as ``png`` or ``svg``; equal figures give equal bytes."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    # Otherwise an SVG would contain the date and random names.
    with rc_context({"svg.hashsalt": "avsl"}):
        figure.savefig(stream, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches."""
    # Unlike pyplot, a Figure has no global state and no window; matplotlib is imported only when a figure is drawn.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def dress(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Add grid lines of one axis below the plot, and remove the frame at the top and right."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
