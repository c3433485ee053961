"""The comparison of frameworks over label ratios, from what the evaluations left."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avsl.config import compose
from avsl.data.errors import DataError
from avsl.engine.layout import Layout
from avsl.files import write_json, write_text
from avsl.viz.curves import plot_comparison, plot_curves, save_figure

_COLUMNS = (
    ("CIoU", "ciou"),
    ("AUC", "auc"),
    ("CIoU median", "ciou_median"),
    ("AUC median", "auc_median"),
    ("CIoU oracle", "ciou_oracle"),
    ("CIoU, sounds shuffled", "ciou_shuffled"),
)
_TITLES = {"whole_image": "whole image", "centred_disc": "centred disc", "perfect_ranking": "perfect ranking"}


def report(overrides: Sequence[str] = ()) -> None:
    """Write the tables and figures of the comparison.

    ``comparison.md`` and ``comparison.csv``: a row for each framework and ratio, a second one where it was scored with
    an object prior too, and the trivial baselines and the ceiling; ``comparison.png``; ``curves.csv`` and
    ``curves.png``: validation over the epochs; ``subsets.csv``: every test
    part, and the part ``test`` by size.

    Raises:
        DataError: nothing has been evaluated.
    """
    layout = Layout.of(compose(overrides))
    cells = _read_cells(layout.base)
    if not cells:
        raise DataError(f"{layout.base / 'evaluate'} holds no evaluation: run the evaluations first")
    layout.report.mkdir(parents=True, exist_ok=True)
    rows = _rows(cells)
    _write_csv(layout.report / "comparison.csv", rows)
    write_text(layout.report / "comparison.md", _markdown(rows))
    _write_csv(layout.report / "subsets.csv", _subsets(cells))
    scores: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        scores.setdefault(cell["framework"], {}).setdefault(cell["label_ratio"], []).append(100 * cell["test"]["ciou"])
    lines = {_TITLES[name]: 100 * b["ciou"] for name, b in cells[0]["baselines"].items() if "ciou" in b}
    figure = plot_comparison(scores, "test CIoU@0.5, fixed threshold (%)", lines)
    save_figure(figure, layout.report / "comparison.png")
    curves = _curves(layout.base, cells)
    _write_csv(layout.report / "curves.csv", curves)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in curves:
        panel = panels.setdefault(f"label ratio {point['label_ratio']}", {})
        panel.setdefault(point["framework"], []).append((point["epoch"], 100 * point["val_ciou"]))
    save_figure(plot_curves(panels), layout.report / "curves.png")
    best = {f"{c['framework']}@{c['label_ratio']}": c["test"]["ciou"] for c in cells}
    write_json(layout.report / "summary.json", best)


def _read_cells(base: Path) -> list[dict[str, Any]]:
    cells = [json.loads(path.read_text()) for path in base.glob("evaluate/*/*/metrics.json")]
    return sorted(cells, key=lambda cell: (cell["label_ratio"], cell["framework"]))


def _scored(cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    """Each evaluation, whether an object prior (OGL) took part, and the figures of that."""
    for cell in cells:
        yield cell, "no", cell
        if cell.get("ogl"):  # an older evaluation does not say: there was none
            yield cell, "yes", cell["ogl"]


def _rows(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for cell, ogl, figures in _scored(cells):
        test = figures["test"]
        rows.append(
            {
                "model": cell["framework"],
                "labels": f"{100 * cell['label_ratio']:g} % ({cell['labelled']})",
                "OGL": ogl,
                "n": test["n"],
            }
            | {title: f"{100 * test[key]:.1f}" for title, key in _COLUMNS}
            | {"training (s)": f"{cell['train_seconds']:.0f}"}
        )
    for name, figures in cells[0]["baselines"].items():
        rows.append(
            {"model": _TITLES[name], "labels": "none", "OGL": "no", "n": cells[0]["test"]["n"]}
            | {title: f"{100 * figures[key]:.1f}" if key in figures else "" for title, key in _COLUMNS}
            | {"training (s)": ""}
        )
    return rows


def _subsets(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for cell, ogl, scored in _scored(cells):
        for part, figures in scored.items():
            if part.startswith("test"):
                head = {"framework": cell["framework"], "label_ratio": cell["label_ratio"], "ogl": ogl, "part": part}
                rows.append(head | {key: value for key, value in figures.items() if not isinstance(value, Mapping)})
                sizes = figures.get("by_size", {})
                rows += [head | {"part": f"{part}/{size}"} | found for size, found in sizes.items()]
    return rows


def _curves(base: Path, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    points = []
    for cell in cells:
        path = base / "train" / str(float(cell["label_ratio"])) / cell["framework"] / "curves.csv"
        with path.open(newline="") as file:
            points += [
                {
                    "framework": cell["framework"],
                    "label_ratio": cell["label_ratio"],
                    "epoch": int(float(line["epoch"])),
                    "val_ciou": float(line["val/ciou"]),
                }
                for line in csv.DictReader(file)
            ]
    return points


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, out.getvalue())


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *([str(row[key]) for key in keys] for row in rows)]
    note = (
        "Percent. CIoU and AUC at one fixed threshold chosen on validation;"
        " *oracle* is told the true area and selects nothing;"
        " *OGL* mixes in what looks like an object, whatever is heard."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"
