"""Optuna's plots of a search."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from avsl.tuning.study import Study
from avsl.viz.curves import save_figure


def draw(study: Study, frameworks: Sequence[str], folder: Path) -> list[Path]:
    """Plot importance, slices, parallel coordinates and history of each framework's trials.

    A framework with fewer than two finished trials of different scores is left out.

    Args:
        study: the search.
        frameworks: the frameworks that competed.
        folder: the folder for the plots.

    Returns:
        The paths of the plots.
    """
    wanted: dict[str, Callable[[optuna.Study], Any]] = {
        "importance": plots.plot_param_importances,
        "slice": plots.plot_slice,
        "parallel": plots.plot_parallel_coordinate,
        "history": plots.plot_optimization_history,
    }
    files = []
    for framework in frameworks:
        own = study.for_plots(framework)
        complete = own.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len({trial.value for trial in complete}) < 2:
            continue
        for name, plot in wanted.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                axes = plot(own)
            figure = np.ravel(axes)[0].figure
            figure.suptitle(f"{framework}: validation CIoU@0.5")
            # Optuna's tick labels overlap and its axis names leave the figure.
            if name == "parallel":
                figure.set_size_inches(16, 6)
            for panel in figure.axes:
                panel.tick_params(axis="x", which="both", labelrotation=45, labelsize=8)
            with plt.rc_context({"savefig.bbox": "tight"}):
                save_figure(figure, folder / f"{framework}-{name}.png")
            plt.close(figure)
            files.append(folder / f"{framework}-{name}.png")
    return files
