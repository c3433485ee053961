"""Runs all steps of an experiment in one process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from avsl.config.compose import compose
from avsl.paths import Layout
from avsl.stages.evaluate import evaluate
from avsl.stages.prepare import load_data, prepare, split
from avsl.stages.start import start
from avsl.stages.train import train_if_changed

log = logging.getLogger(__name__)


def run(overrides: Sequence[str] = ()) -> None:
    """Run all steps of one seed; existing results of the same configuration and code are kept."""
    prepare(overrides)
    split(overrides)
    start(overrides)
    train_if_changed(overrides)
    config = compose(overrides)
    _, data_split = load_data(Layout.of(config))
    if data_split.validation:
        evaluate(overrides)
    else:
        log.warning("%s: no row has boxes, so nothing is scored", config.data.name)
