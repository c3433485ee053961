"""Reads what evaluations left into cells, each with all its seeds, and compares them."""

from __future__ import annotations

import logging
from pathlib import Path

from avsl.errors import DataError
from avsl.evaluation.outcomes import compare_outcomes, read_test, summarize_outcomes
from avsl.records import EvaluationRecord, StaleError, load_evaluated
from avsl.report.comparison import Cell, Training, Verdicts

log = logging.getLogger(__name__)


def read_verdicts(base: Path) -> list[Verdicts]:
    """Every label ratio with its cells and their pairs.

    An evaluation of another model than its training left is left out, with a warning.

    Args:
        base: the data set's folder of outputs.

    Raises:
        DataError: ``test`` has no row with a source in view, or evaluations of one ratio have different rows.
    """
    ratios: dict[float, dict[tuple[str, str], dict[int, Training]]] = {}
    for evaluation in sorted(path.parent for path in base.glob(f"evaluate/*/*/*/{EvaluationRecord.FILE}")):
        trained = base / "train" / evaluation.relative_to(base / "evaluate")
        try:
            run, scores = load_evaluated(trained, evaluation)
        except StaleError as error:
            log.warning("left out: %s", error)
            continue
        if not scores.test.n:
            path = evaluation / scores.FILE
            raise DataError(f"{path}: its part 'test' has no row with a source in view, so there is no CIoU to compare")
        methods = ratios.setdefault(run.label_ratio, {})
        methods.setdefault((run.framework, run.objective), {})[run.seed] = Training(run, scores, trained, evaluation)
    several = len({objective for methods in ratios.values() for _, objective in methods}) > 1
    return [
        _judge(ratio, {f"{f} + {o}" if several else f: seeds for (f, o), seeds in methods.items()})
        for ratio, methods in sorted(ratios.items())
    ]


def _judge(ratio: float, models: dict[str, dict[int, Training]]) -> Verdicts:
    outcomes = {
        model: {seed: read_test(training.evaluation) for seed, training in sorted(seeds.items())}
        for model, seeds in models.items()
    }
    cells = [
        Cell(model, {seed: seeds[seed] for seed in sorted(seeds)}, summarize_outcomes(outcomes[model]))
        for model, seeds in models.items()
    ]
    cells.sort(key=lambda cell: (-len(cell.trainings), -cell.test.mean, cell.model))
    return Verdicts(ratio, cells, compare_outcomes({cell.model: outcomes[cell.model] for cell in cells}))
