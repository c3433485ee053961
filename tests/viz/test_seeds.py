"""The figure of seeds draws what it is given: dots, means, groups and notes, in the methods' colors."""

from __future__ import annotations

import numpy as np
import pytest

from avsl.viz.curves import PALETTE
from avsl.viz.seeds import Panel, Row, plot_seeds


def test_every_seed_is_a_dot_and_a_group_is_joined_at_its_methods() -> None:
    """A panel for each comparison, a row for each method from top to bottom; a group passes over who is not in it."""
    rows = {
        "dmt": Row([60.0, 66.0, 69.0], 65.0, (58.0, 72.0), "4 min"),
        "xpl": Row([64.0], 64.0, (float("nan"), float("nan")), "3 min"),
        "supervised": Row([50.0, 52.0], 51.0, (40.0, 62.0), "98 s"),
    }
    order = ["dmt", "supervised", "xpl"]
    panels = [Panel("3 %", rows, [["dmt", "supervised"]]), Panel("100 %", {"xpl": rows["xpl"]}, [])]
    first, second = plot_seeds(panels, "CIoU", order).axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["3 %", "100 %"]
    assert [label.get_text() for label in first.get_yticklabels()] == list(rows)
    top, bottom = first.get_ylim()
    assert top > bottom  # row 0 is the uppermost
    drawn = [(line, *np.asarray(line.get_xydata()).T.tolist()) for line in first.lines]
    dots = {tuple(x): (line, y) for line, x, y in drawn if line.get_marker() == "o"}
    for place, (name, row) in enumerate(rows.items()):
        line, y = dots[tuple(row.scores)]
        assert line.get_color() == PALETTE[order.index(name)]
        assert set(y) == {place}
    _, x, y = drawn[-1]
    assert y == [0, 2]
    assert min(x) > 1  # beside the panel
    assert [text.get_text() for text in first.texts] == ["4 min", "3 min", "98 s"]
    for empty in ([], [Panel("3 %", {}, [])]):
        with pytest.raises(ValueError, match="at least one"):
            plot_seeds(empty, "CIoU", order)
