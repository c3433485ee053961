"""All steps of one experiment in one process."""

from __future__ import annotations

from collections.abc import Sequence

from avsl.stages.evaluate import evaluate
from avsl.stages.prepare import prepare, split
from avsl.stages.start import start
from avsl.stages.train import train_if_changed


def run(overrides: Sequence[str] = ()) -> None:
    """All steps of one seed; what is there already for the same configuration and code is kept."""
    prepare(overrides)
    split(overrides)
    start(overrides)
    train_if_changed(overrides)
    evaluate(overrides)
