"""All steps of one experiment in one process."""

from __future__ import annotations

from collections.abc import Sequence

from avsl.config.compose import compose
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.stages.evaluate import evaluate
from avsl.stages.prepare import load_data, prepare, split
from avsl.stages.train import train
from avsl.training.loop import identity


def run(overrides: Sequence[str] = ()) -> None:
    """Prepare, split, train and evaluate; what is there already for the same configuration and code is kept."""
    config = compose(overrides)
    layout = Layout.of(config)
    prepare(overrides)
    split(overrides)
    _, drawn = load_data(layout)
    trained = RunRecord.find(layout.train)
    if trained is None or trained.identity != identity(config, drawn):
        train(overrides)
    evaluate(overrides)
