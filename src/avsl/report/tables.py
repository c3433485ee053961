"""The comparison of frameworks and objectives over label ratios, from what the evaluations left."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avsl.config.compose import compose
from avsl.errors import DataError
from avsl.files import write_json, write_text
from avsl.paths import Layout
from avsl.records import EvaluationRecord, Scores, StaleError, load_evaluated
from avsl.report.comparison import Cell, Comparison
from avsl.report.contents import make_page
from avsl.statistics import bootstrap_interval
from avsl.viz.curves import plot_comparison, plot_curves, save_figure

log = logging.getLogger(__name__)

_COLUMNS = (
    ("CIoU", "ciou"),
    ("AUC", "auc"),
    ("CIoU median", "ciou_median"),
    ("AUC median", "auc_median"),
    ("CIoU oracle", "ciou_oracle"),
    ("CIoU, sounds shuffled", "ciou_shuffled"),
)
_TITLES = {"whole_image": "whole image", "centered_disc": "centered disc", "perfect_ranking": "perfect ranking"}


def report(overrides: Sequence[str] = ()) -> None:
    """Write the tables and figures of the comparison, and the page that has them all.

    ``report.html``: all of it and more (`avsl.report.sections`), in one file that needs no other; ``comparison.md``
    and ``comparison.csv``: a row for each framework, objective and ratio, a second one where it was scored with an
    object prior too, and the trivial baselines and the ceiling; ``comparison.png``; ``curves.csv`` and ``curves.png``:
    validation over the epochs; ``subsets.csv``: every test part, and the part ``test`` by size, with the baselines of
    each part.

    Raises:
        DataError: nothing has been evaluated, ``test`` has no row with a source in view, or what the page needs of an
            earlier stage is missing.
    """
    layout = Layout.of(compose(overrides))
    cells = _read_cells(layout.base)
    if not cells:
        raise DataError(f"{layout.base / 'evaluate'} holds no evaluation: run the evaluations first")
    rows = _rows(cells)
    baselines = {_TITLES[name]: 100 * b["ciou"] for name, b in cells[0].scores.baselines.items() if "ciou" in b}
    comparison = Comparison(layout, cells, rows, baselines)
    _write_csv(layout.report / "comparison.csv", rows)
    write_text(layout.report / "comparison.md", _markdown(rows))
    _write_csv(layout.report / "subsets.csv", _subsets(cells))
    scores: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        scores.setdefault(cell.model, {})[cell.label_ratio] = [100 * cell.test_ciou]
    figure = plot_comparison(scores, "test CIoU@0.5, fixed threshold (%)", baselines)
    save_figure(figure, layout.report / "comparison.png")
    curves = _curves(comparison)
    _write_csv(layout.report / "curves.csv", curves)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in curves:
        # Every model in every panel, so that each keeps its color.
        panel = panels.setdefault(f"label ratio {point['label_ratio']}", {name: [] for name in comparison.models})
        panel[point["model"]].append((point["epoch"], 100 * point["val_ciou"]))
    save_figure(plot_curves(panels), layout.report / "curves.png")
    summary = {f"{c.scores.framework}-{c.scores.objective}@{c.label_ratio}": c.test_ciou for c in cells}
    write_json(layout.report / "summary.json", summary)
    write_text(layout.report / "report.html", make_page(comparison))


def _read_cells(base: Path) -> list[Cell]:
    """Every evaluation; one of another model than its training left is left out, with a warning."""
    found = []
    for evaluation in (path.parent for path in base.glob(f"evaluate/*/*/*/{EvaluationRecord.FILE}")):
        try:
            run, scores = load_evaluated(base / "train" / evaluation.relative_to(base / "evaluate"), evaluation)
        except StaleError as error:
            log.warning("left out: %s", error)
            continue
        if not scores.test.n:
            path = evaluation / scores.FILE
            raise DataError(f"{path}: its part 'test' has no row with a source in view, so there is no CIoU to compare")
        found.append((scores, run, _interval(evaluation / "per_sample.csv")))
    several = len({scores.objective for scores, _, _ in found}) > 1
    cells = [
        Cell(scores, run, interval, f"{scores.framework} + {scores.objective}" if several else scores.framework)
        for scores, run, interval in found
    ]
    return sorted(cells, key=lambda cell: (cell.scores.label_ratio, cell.scores.framework, cell.scores.objective))


def _interval(table: Path) -> tuple[float, float]:
    """The 95 % bootstrap interval of test CIoU@0.5, in per cent."""
    with table.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["part"] == "test" and line["ciou"]]
    hits = [float(line["ciou"]) >= 0.5 for line in lines]
    low, high = bootstrap_interval(hits, [line["recording"] for line in lines])
    return 100 * low, 100 * high


def _scored(cells: Sequence[Cell]) -> Iterator[tuple[Cell, str, Scores]]:
    """Each evaluation, whether an object prior (OGL) took part, and the scores of that."""
    for cell in cells:
        yield cell, "no", cell.scores
        if cell.scores.ogl is not None:
            yield cell, "yes", cell.scores.ogl


def _rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    # Trainings of one length and seed need no word about it.
    unlike = [name for name in ("epochs", "seed") if len({getattr(cell.run, name) for cell in cells}) > 1]
    rows = []
    for cell, ogl, scores in _scored(cells):
        rows.append(
            {
                "model": cell.scores.framework,
                "objective": cell.scores.objective,
                "labels": f"{100 * cell.scores.label_ratio:g} % ({cell.scores.labeled})",
                "OGL": ogl,
                "n of N": scores.test.coverage,
            }
            | _figures(scores.test.scores, cell.interval if ogl == "no" else None)
            | {"training (s)": f"{cell.scores.train_seconds:.0f}"}
            | {name: str(getattr(cell.run, name)) for name in unlike}
        )
    first = cells[0].scores
    for name, figures in first.baselines.items():
        rows.append(
            {"model": _TITLES[name], "objective": "none", "labels": "none", "OGL": "no", "n of N": first.test.coverage}
            | _figures(figures, None)
            | {"training (s)": ""}
            | dict.fromkeys(unlike, "")
        )
    return rows


def _figures(found: Mapping[str, float], interval: tuple[float, float] | None) -> dict[str, str]:
    """The columns of scores, in per cent; empty where there is none."""
    columns = {title: f"{100 * found[key]:.1f}" if key in found else "" for title, key in _COLUMNS}
    said = "" if interval is None else "{:.1f} to {:.1f}".format(*interval)
    return {"CIoU": columns["CIoU"], "CIoU, 95 % interval": said} | columns


def _subsets(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for cell, ogl, scores in _scored(cells):
        for part, test in scores.tests.items():
            head = {key: getattr(cell.scores, key) for key in ("framework", "objective", "label_ratio")} | {"ogl": ogl}
            rows.append(head | {"part": part} | {**test.counts, **test.scores})
            for size, found in (test.by_size or {}).items():
                rows.append(head | {"part": f"{part}/{size}"} | found.model_dump())
    first = cells[0].scores
    for part, test in first.tests.items():
        known = first.baselines if part == "test" else test.baselines or {}
        rows += [
            {"framework": _TITLES[name], "objective": "none", "ogl": "no", "part": part} | {**test.counts, **found}
            for name, found in known.items()
        ]
    return rows


def _curves(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "model": cell.model,
            "label_ratio": cell.label_ratio,
            "epoch": int(float(line["epoch"])),
            "val_ciou": float(line["val/ciou"]),
        }
        for cell in comparison.cells
        for line in comparison.curves(cell)
    ]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    # As objects, or a column with an empty cell would turn its whole numbers into fractions.
    write_text(path, pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    note = (
        "Percent. CIoU and AUC at one fixed threshold chosen on validation;"
        " the interval is of other test recordings (bootstrap), not of other seeds;"
        " *oracle* is told the true area and selects nothing;"
        " *OGL* mixes in what looks like an object, whatever is heard."
    )
    return f"{table}\n\n{note}\n"
