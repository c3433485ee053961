"""How each model was made."""

from __future__ import annotations

from avsl.report.comparison import Comparison, format_ratio
from avsl.report.page import Section, Table


def runs(comparison: Comparison) -> Section:
    """Command, hashes, commit and MLflow run of every training."""
    named = {
        "command": "command",
        "config_hash": "configuration",
        "split_hash": "split",
        "data_hash": "data",
        "code_hash": "code",
        "git_commit": "git commit",
        "model_hash": "model",
        "run_id": "MLflow run",
    }
    tables = [
        Table(
            f"{cell.model}, {format_ratio(cell.label_ratio)} labels, seed {seed}",
            ("what", "value"),
            [[title, str(getattr(training.run, key))] for key, title in named.items()],
            frozenset({"value"}),
            code=True,
            folded=True,
        )
        for cell in comparison.cells
        for seed, training in cell.trainings.items()
    ]
    return Section(
        "How each model was made",
        [
            "Commands, and SHA-256 hashes of all that decides a training: configuration, split, prepared data and "
            "code, in that order; the commit is of the checkout that trained. The whole configuration lies beside the "
            "model, in train/<labels>/<framework>-<objective>/<seed>/config.yaml.",
        ],
        tables=tables,
    )
