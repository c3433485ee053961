"""The report: tables, figures and the page of all methods, objectives and label ratios."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import yaml

from avsl.config.compose import compose, leaves
from avsl.config.models import INDECISIVE, Config
from avsl.errors import DataError
from avsl.files import write_json, write_text
from avsl.paths import Layout
from avsl.records import Scores
from avsl.report.comparison import (
    NEGATIVES,
    Cell,
    Comparison,
    Training,
    Verdicts,
    format_difference,
    format_interval,
    format_percent,
)
from avsl.report.contents import make_page
from avsl.report.reading import read_verdicts
from avsl.report.sections.verdicts import draw_verdicts
from avsl.statistics import Summary
from avsl.tracking.cells import tag_parent
from avsl.tracking.runs import id_in_store
from avsl.tracking.store import TrackingError, open_store
from avsl.viz.curves import plot_curves, save_figure

log = logging.getLogger(__name__)

_COLUMNS = {
    "AUC": "auc",
    "CIoU median": "ciou_median",
    "AUC median": "auc_median",
    "CIoU oracle": "ciou_oracle",
    "CIoU, sounds shuffled": "ciou_shuffled",
} | {f"boxed at {sound}": key for key, sound in NEGATIVES.items()}
# Settings that other columns of the table show.
_ELSEWHERE = ("seed", "split.seed", "split.label_ratio", "framework.name", "objective.name")
_TITLES = {"whole_image": "whole image", "centered_disc": "centered disc", "perfect_ranking": "perfect ranking"}
_NOTE = (
    "Per cent, means over the seeds, with their standard deviation (SD) and a 95 % interval over seeds and test "
    "recordings; of a single seed it is over recordings alone. CIoU and AUC at one fixed threshold chosen on "
    "validation; *oracle* binarizes each map at the true area and never selects a model; *boxed at* is the share of "
    "frames given a box at that threshold although nothing in view is heard (lower is better); *OGL* mixes in what "
    "looks like an object, whatever is heard. Training seconds are of one seed."
)
_NOTE_PAIRS = (
    "Differences of CIoU in points, first - second, over the seeds that both have and the same test rows, with the "
    "95 % interval of the pair alone. p: permutation and t test, the larger, corrected by Holm over the pairs of a "
    "ratio; at most 0.05 is *better* or *worse*. Where not told apart: further seeds, or further test clips, with "
    "which a difference of this size would be told four times in five; *no number* where the other one limits. A "
    "single common seed gives no verdict: interval and p are then of other test rows alone."
)


def report(overrides: Sequence[str] = ()) -> None:
    """Write the tables and figures of the comparison, and the page that has them all.

    ``report.html``: all of it and more (`avsl.report.sections`), in one file that needs no other; ``comparison.md``:
    the answer at each label ratio and both tables; ``comparison.csv``: a row for each framework, objective and ratio
    over its seeds, a second one where it was scored with an object prior too, and the trivial baselines; ``pairs.csv``:
    a row for each pair of methods at a ratio, with its verdict, which the parent runs in MLflow have as tags
    ``verdict/METHOD``; ``comparison.png`` shows every seed; ``curves.csv`` and ``curves.png``:
    validation over the epochs; ``subsets.csv``: every test part, and the part ``test`` by size, with the baselines of
    each part; ``summary.json``: the figures of cells and pairs.

    Raises:
        DataError: nothing has been evaluated, ``test`` has no row with a source in view, evaluations of one ratio have
            different rows, or what the page needs of an earlier stage is missing.
    """
    config = compose(overrides)
    layout = Layout.of(config)
    verdicts = read_verdicts(layout.base)
    if not verdicts:
        raise DataError(f"{layout.base / 'evaluate'} holds no evaluation: run the evaluations first")
    cells = sorted(
        (cell for of_ratio in verdicts for cell in of_ratio.cells),
        key=lambda cell: (cell.label_ratio, cell.framework, cell.objective),
    )
    scores = cells[0].first.scores
    baselines = {_TITLES[name]: 100 * b["ciou"] for name, b in scores.baselines.items() if "ciou" in b}
    comparison = Comparison(layout, cells, verdicts, _rows(cells), _pair_rows(verdicts), baselines)
    _write_csv(layout.report / "comparison.csv", comparison.rows)
    _write_csv(layout.report / "pairs.csv", comparison.pairs, _PAIR_COLUMNS)
    write_text(layout.report / "comparison.md", _markdown(comparison))
    _write_csv(layout.report / "subsets.csv", _subsets(cells))
    save_figure(draw_verdicts(comparison), layout.report / "comparison.png")
    curves = [(cell, epoch, ciou) for cell in cells for epoch, ciou in cell.mean_curve("val/ciou")]
    _write_csv(
        layout.report / "curves.csv",
        [
            {"model": cell.model, "label_ratio": cell.label_ratio, "epoch": int(epoch), "val_ciou": ciou}
            for cell, epoch, ciou in curves
        ],
    )
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell, epoch, ciou in curves:
        # Every model in every panel, so that each keeps its color.
        panel = panels.setdefault(f"label ratio {cell.label_ratio}", {name: [] for name in comparison.models})
        panel[cell.model].append((epoch, 100 * ciou))
    save_figure(plot_curves(panels), layout.report / "curves.png")
    write_json(layout.report / "summary.json", _summary(comparison))
    write_text(layout.report / "report.html", make_page(comparison))
    _tag_verdicts(config, verdicts)


def _tag_verdicts(config: Config, verdicts: Sequence[Verdicts]) -> None:
    """Write each method's verdicts about the others to its parent run in MLflow, where there is a store."""
    try:
        store = open_store(config.tracking, config.root, create=False)
        for of_ratio in verdicts:
            names = {cell.model: f"{cell.framework}-{cell.objective}" for cell in of_ratio.cells}
            tags: dict[str, dict[str, str]] = {model: {} for model in names}
            for pair in of_ratio.pairs:
                said = f"{pair.verdict}, {format_difference(pair.difference)}"
                tags[pair.first][f"verdict/{names[pair.second]}"] = said
                reverse = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)
                said = f"{reverse}, {format_difference(pair.difference.reversed())}"
                tags[pair.second][f"verdict/{names[pair.first]}"] = said
            for cell in of_ratio.cells:
                run_id = id_in_store(store, config.data.name, cell.first.run.run_id, cell.first.trained)
                tag_parent(store, run_id, tags[cell.model])
    except TrackingError as error:
        log.warning("the verdicts are not in MLflow: %s", error)


def _key(cell: Cell) -> str:
    return f"{cell.framework}-{cell.objective}@{cell.label_ratio}"


def _known(name: str, summary: Summary, **others: float | None) -> dict[str, float]:
    """A summary's figures under ``name``, and others; without what is None or NaN."""
    values = {name: summary.mean, "sd": summary.sd, "low": summary.low, "high": summary.high} | others
    return {key: value for key, value in values.items() if value is not None and not math.isnan(value)}


def _summary(comparison: Comparison) -> dict[str, Any]:
    cells = {
        _key(cell): {"seeds": list(cell.trainings)}
        | _known("ciou", cell.test, **{key: cell.mean_test(key) for key in NEGATIVES})
        for cell in comparison.cells
    }
    pairs = []
    for verdicts in comparison.verdicts:
        keys = {cell.model: _key(cell) for cell in verdicts.cells}
        for pair in verdicts.pairs:
            about = {"first": keys[pair.first], "second": keys[pair.second], "seeds": list(pair.seeds)}
            pairs.append(about | _known("difference", pair.difference, p=pair.p_value) | {"verdict": pair.verdict})
    return {"cells": cells, "pairs": pairs}


def _rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    # Columns that say the same of every cell need not be there.
    settings = _differing_settings(cells)
    shown = {
        "OGL": any(cell.guided for cell in cells),
        "settings": any(settings),
        "which seeds": len({tuple(cell.trainings) for cell in cells}) > 1,
    }
    rows: list[dict[str, Any]] = []
    for cell, differing in zip(cells, settings, strict=True):
        labeled = sorted({training.run.labeled for training in cell.trainings.values()})
        about = {
            "model": cell.framework,
            "objective": cell.objective,
            "labels": f"{100 * cell.label_ratio:g} % ({' to '.join(map(str, labeled[:1] + labeled[1:][-1:]))})",
        }
        last = {
            "training (s)": f"{cell.train_seconds:.0f}",
            "settings": differing,
            "which seeds": ", ".join(map(str, cell.trainings)),
        }
        for guided in (False, True) if cell.guided else (False,):
            ciou = {
                "CIoU": format_percent(cell.mean_test("ciou", guided=guided)),
                "SD": "" if guided else format_percent(cell.test.sd),
                "95 % interval": "" if guided else format_interval(cell.test),
            }
            rest = {title: format_percent(cell.mean_test(key, guided=guided)) for title, key in _COLUMNS.items()}
            counted = {"n of N": cell.first.scores.test.coverage, "seeds": str(len(cell.trainings))}
            rows.append(about | {"OGL": "yes" if guided else "no"} | counted | ciou | rest | last)
    first = cells[0].first.scores
    for name, figures in first.baselines.items():
        known = {title: format_percent(figures.get(key)) for title, key in {"CIoU": "ciou", **_COLUMNS}.items()}
        about = {"model": _TITLES[name], "objective": "none", "labels": "none", "OGL": "no"}
        rows.append(dict.fromkeys(rows[0], "") | about | {"n of N": first.test.coverage} | known)
    return [{key: value for key, value in row.items() if shown.get(key, True)} for row in rows]


def _differing_settings(cells: Sequence[Cell]) -> list[str]:
    """By cell, the settings in which trainings differ, such as ``trainer.epochs=6``; "or" joins those of its seeds."""
    found = [[_settings(training) for training in cell.trainings.values()] for cell in cells]
    values: dict[str, set[str]] = {}
    for of_training in (of_training for of_cell in found for of_training in of_cell):
        for key, value in of_training.items():
            values.setdefault(key, set()).add(value)
    texts = []
    for of_cell in found:
        parts = []
        for key in sorted(key for key, all_values in values.items() if len(all_values) > 1):
            own = dict.fromkeys(of_training[key] for of_training in of_cell if key in of_training)
            parts += [f"{key}={' or '.join(own)}"] if own else []
        texts.append(", ".join(parts))
    return texts


def _settings(training: Training) -> dict[str, str]:
    """A training's settings by dotted key, without those that do not affect it or that other columns show."""
    sections = yaml.safe_load((training.trained / "config.yaml").read_text())
    return {
        key: str(value)
        for name, section in sections.items()
        if name not in INDECISIVE
        for key, value in leaves(name, section)
        if key not in _ELSEWHERE
    }


_PAIR_COLUMNS = (
    *("labels", "first", "second", "common seeds", "difference (95 % interval)", "SD", "p", "first is"),
    *("more seeds", "or more test clips"),
)


def _pair_rows(verdicts: Sequence[Verdicts]) -> list[dict[str, Any]]:
    rows = []
    for of_ratio in verdicts:
        for pair in of_ratio.pairs:
            seeds, clips = "", ""
            if pair.verdict == "not told apart":
                needed = of_ratio.needed(pair)
                rows_of_test = of_ratio.cells[0].first.scores.test.n
                seeds = "no number" if needed.more_seeds is None else str(needed.more_seeds)
                times = needed.times_recordings
                clips = "no number" if times is None else f"{math.ceil((times - 1) * rows_of_test):,}"
            values = (
                f"{100 * of_ratio.label_ratio:g} %",
                pair.first,
                pair.second,
                len(pair.seeds),
                format_difference(pair.difference),
                format_percent(pair.difference.sd),
                f"{pair.p_value:.2g}",
                pair.verdict,
                seeds,
                clips,
            )
            rows.append(dict(zip(_PAIR_COLUMNS, values, strict=True)))
    return rows


def _subsets(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for cell in cells:
        evaluations = [training.scores for training in cell.trainings.values()]
        rows += _subsets_of(cell, "no", evaluations)
        if cell.guided:
            rows += _subsets_of(cell, "yes", [scores.ogl for scores in evaluations if scores.ogl is not None])
    scores = cells[0].first.scores
    for part, test in scores.tests.items():
        known = scores.baselines if part == "test" else test.baselines or {}
        rows += [
            {"framework": _TITLES[name], "objective": "none", "ogl": "no", "part": part} | {**test.counts, **found}
            for name, found in known.items()
        ]
    return rows


def _subsets_of(cell: Cell, ogl: str, found: Sequence[Scores]) -> Iterator[dict[str, Any]]:
    """Rows of one cell, means over its seeds."""
    head = {"framework": cell.framework, "objective": cell.objective, "label_ratio": cell.label_ratio, "ogl": ogl}
    for part, first in found[0].tests.items():
        of_part = [scores.tests[part] for scores in found]
        names = [name for name in first.scores if all(name in test.scores for test in of_part)]
        means = {name: round(fmean(test.scores[name] for test in of_part), 6) for name in names}
        yield head | {"part": part, **first.counts, **means}
        for size, of_size in (first.by_size or {}).items():
            ciou = fmean((test.by_size or {})[size].ciou for test in of_part)
            yield head | {"part": f"{part}/{size}", "n": of_size.n, "ciou": round(ciou, 6)}


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    # As objects, or a column with an empty cell would turn its whole numbers into fractions.
    table = pd.DataFrame(rows, columns=None if columns is None else list(columns), dtype=object)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _markdown(comparison: Comparison) -> str:
    parts = ["\n".join(f"- {verdicts.answer()}." for verdicts in comparison.verdicts)]
    for rows, note in ((comparison.rows, _NOTE), (comparison.pairs, _NOTE_PAIRS)):
        if rows:
            parts += [pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), note]
    return "\n\n".join(parts) + "\n"
