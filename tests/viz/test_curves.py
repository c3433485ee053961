"""Curves hold the numbers they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.viz import curves


def test_curves_hold_the_points_they_were_given(tmp_path: Path) -> None:
    """One axes per panel, one line per curve, saved as PNG and SVG."""
    points = [(0.0, 1.0), (1.0, 0.5), (2.0, 0.25)]
    figure = curves.plot_curves({"loss": {"total": points, "once": [(1.0, 2.0)]}, "score": {"ciou": points}})
    assert [axes.get_title() for axes in figure.axes] == ["loss", "score"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["total", "once"]
    named = [[text.get_text() for text in legend.get_texts()] for axes in figure.axes if (legend := axes.get_legend())]
    assert (named, figure.legends) == ([["total", "once"], ["ciou"]], [])
    np.testing.assert_array_equal(np.asarray(figure.axes[0].lines[0].get_xydata()), points)
    for name in ("curves.png", "curves.svg"):
        curves.save_figure(figure, tmp_path / name)
        written = (tmp_path / name).read_bytes()
        assert len(written) > 1000
        assert curves.encode_figure(figure, name.rpartition(".")[2]) == written
    with pytest.raises(ValueError, match=facts("panel")):
        curves.plot_curves({})


def test_panels_of_the_same_curves_share_a_legend_and_colors() -> None:
    """A curve that a panel lacks changes neither."""
    one = [(1.0, 2.0), (2.0, 3.0)]
    figure = curves.plot_curves({"3 %": {"dmt": one, "xpl": one}, "100 %": {"dmt": [], "xpl": one}})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dmt", "xpl"]
    assert [axes.get_legend() for axes in figure.axes] == [None, None]
    first, second = ({line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes)
    assert second == {"xpl": first["xpl"]}


def test_label_curves_rise_with_the_ratio_on_a_logarithmic_axis() -> None:
    """Points are means over seeds, bars their spread or the interval given; a method may lack a ratio."""
    scores = {"supervised": {1.0: [80.0], 0.03: [10.0, 14.0]}, "dmt": {0.03: [20.0]}}
    intervals = {"supervised": {1.0: (75.0, 82.0)}}
    figure = curves.plot_label_curve(scores, "CIoU@0.5 (%)", {"centered disc": 34.0}, intervals)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3 %", "100 %"]
    supervised, dmt = (np.asarray(container[0].get_xydata()) for container in axes.containers)
    np.testing.assert_allclose(supervised, [[0.03, 12.0], [1.0, 80.0]], rtol=0.02)
    np.testing.assert_allclose(dmt, [[0.03, 20.0]], rtol=0.02)
    assert supervised[0, 0] < dmt[0, 0]  # side by side
    bars = [bar.get_segments() for container in axes.containers for bar in container[2]]
    ends = [[segment[:, 1].tolist() for segment in segments] for segments in bars]
    assert ends == [[pytest.approx([12 - 8**0.5, 12 + 8**0.5]), [75.0, 82.0]], [[20.0, 20.0]]]
    assert set(axes.get_legend_handles_labels()[1]) == {*scores, "centered disc"}
    with pytest.raises(ValueError, match=facts("score")):
        curves.plot_label_curve({}, "CIoU")
