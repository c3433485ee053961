"""`avsl labels forecast`: how many labels a score needs, from the runs of several label ratios and seeds."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.console import print_notice, print_table
from avsl.errors import DataError
from avsl.labels.rounds import write_table
from avsl.paths import Layout
from avsl.records import EvaluationRecord
from avsl.report.sections.forecasts import CAPTION, PAST, TARGET, Answer, draw_forecasts, has_curve
from avsl.schema import ConfigError
from avsl.stages.run import run
from avsl.statistics.learning_curve import Run
from avsl.tracking.runs import start_summary_run
from avsl.tracking.store import TrackingError, open_store
from avsl.viz.curves import save_figure

log = logging.getLogger(__name__)

_PROBES = (0.25, 0.5, 1.0)


def forecast_labels(
    overrides: Sequence[str] = (), target: float = TARGET, more: int | None = None, probe: bool = False
) -> Path:
    """Fit the learning curve of every method that has runs of at least three numbers of labels.

    Scores are CIoU@0.5 on the part ``test``. Prints how many labels the target needs, what ``more`` labels would bring,
    and how forecasts from fewer labels would have turned out; writes the same as ``forecast.csv`` and
    ``forecast.png``, and both, with the figures, to a separate MLflow run. The report has the same section.

    Args:
        overrides: changes to params.yaml, as ``data=folder``.
        target: CIoU in (0, 1).
        more: labels added to the most that a run had; by default as many again.
        probe: first train the configured method on a quarter and a half of the labels, and on all, where it has no such
            run.

    Returns:
        The table.

    Raises:
        ConfigError: the target is no share, or ``more`` is not positive.
        DataError: no method has enough runs; names the commands that add some.
    """
    if not 0 < target < 1:
        raise ConfigError(f"--target {target:g}: CIoU is a share, above 0 and below 1")
    if more is not None and more < 1:
        raise ConfigError(f"--more {more}: at least one label more")
    config = compose(overrides)
    probes = _probes(config, overrides)
    # If params.yaml takes ratios of all samples, trainings on a share of the labels have another folder.
    folders = [Layout.of(compose(words)).base / "evaluate" for words in (overrides, *probes)]
    folders = list(dict.fromkeys(folders))
    found = {ratio for folder in folders for ratio in _ratios(folder, config)}
    missing = [words for share, words in zip(_PROBES, probes, strict=True) if share not in found]
    if probe:
        for words in missing:
            run(words)
    runs = read_runs(folders)
    answers = [Answer(method, own, target, more) for method, own in sorted(runs.items()) if has_curve(own)]
    if not answers:
        commands = "; ".join(shlex.join(["avsl", "run", *words]) for words in missing)
        raise DataError(
            f"{folders[0]}: no method was evaluated with three numbers of labels, which a learning curve "
            f"needs; --probe trains {config.framework.name} on shares of the labels, as do: {commands}"
        )
    for method in sorted(runs.keys() - {answer.model for answer in answers}):
        print_notice(f"{method}: left out, it has runs of fewer than three numbers of labels")
    rows = [answer.row() for answer in answers]
    print_table(rows, CAPTION)
    print_table([row for answer in answers for row in answer.past_rows()], PAST)
    for answer in answers:
        print(answer.sentence())
    path = config.root / config.data.name / "labels" / "forecast.csv"
    save_figure(draw_forecasts(answers), path.with_suffix(".png"))
    write_table(path, list(rows[0]), [list(row.values()) for row in rows])
    print(f"{path}, {path.with_suffix('.png')}")
    _record(config, answers, path)
    if config.data.name == "folder":
        rest = [text for text in overrides if not text.startswith("split.")]
        added = max(answer.added for answer in answers)
        print("next:", shlex.join(["avsl", "labels", "suggest", *rest, "--budget", str(added)]))
    return path


def _record(config: Config, answers: Sequence[Answer], table: Path) -> None:
    """Write the figures, the table and the plot to a run in MLflow."""
    try:
        store = replace(open_store(config.tracking, config.root), system_metrics=False)
        tags = {"kind": "forecast", "target": f"{answers[0].target:g}"}
        tags |= {f"answer/{answer.model}": answer.sentence() for answer in answers}
        with start_summary_run(store, config.data.name, "labels forecast", tags) as opened:
            for answer in answers:
                opened.log_epoch(answer.metrics(), 0)
            for path in (table, table.with_suffix(".png")):
                opened.log_file(path)
    except TrackingError as error:
        log.warning("the forecast is not in MLflow: %s", error)


def read_runs(folders: Iterable[Path]) -> dict[str, list[Run]]:
    """Read the evaluations below some folders, by method; a warning names unreadable ones."""
    runs: dict[str, list[Run]] = {}
    for folder in folders:
        for record in _records(folder):
            if record.labeled and record.test.n:
                method = f"{record.framework}-{record.objective}"
                runs.setdefault(method, []).append(Run(record.labeled, record.test.scores["ciou"], record.test.n))
    return runs


def _records(folder: Path) -> Iterator[EvaluationRecord]:
    for path in sorted(folder.rglob(EvaluationRecord.FILE)):
        if (record := EvaluationRecord.find(path.parent)) is not None:
            yield record


def _ratios(folder: Path, config: Config) -> Iterator[float]:
    """Return the label ratios at which the configured method has been evaluated."""
    for record in _records(folder):
        if (record.framework, record.objective) == (config.framework.name, config.objective.name):
            yield record.label_ratio


def _probes(config: Config, overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides that train the configured method on each share of the labels in `_PROBES`."""
    rest = [text for text in overrides if not text.startswith(("split.label_ratio=", "split.ratio_of="))]
    of_labels = [] if config.split.ratio_of == "annotated" else ["split.ratio_of=annotated"]
    return [[*rest, f"split.label_ratio={share}", *of_labels] for share in _PROBES]
