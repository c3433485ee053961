"""The comparison of frameworks and objectives over label ratios, from what the evaluations left."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from avsl.config.compose import compose
from avsl.errors import DataError
from avsl.files import write_json, write_text
from avsl.functional.bootstrap import bootstrap_interval
from avsl.paths import Layout, n_of_n
from avsl.report.contents import make_page, read_curves
from avsl.viz.curves import plot_comparison, plot_curves, save_figure

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

    ``report.html``: all of it and more (`avsl.report.contents`), in one file that needs no other; ``comparison.md``
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
    layout.report.mkdir(parents=True, exist_ok=True)
    rows = _rows(cells)
    _write_csv(layout.report / "comparison.csv", rows)
    write_text(layout.report / "comparison.md", _markdown(rows))
    _write_csv(layout.report / "subsets.csv", _subsets(cells))
    scores: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        scores.setdefault(cell["model"], {}).setdefault(cell["label_ratio"], []).append(100 * cell["test"]["ciou"])
    lines = {_TITLES[name]: 100 * b["ciou"] for name, b in cells[0]["baselines"].items() if "ciou" in b}
    figure = plot_comparison(scores, "test CIoU@0.5, fixed threshold (%)", lines)
    save_figure(figure, layout.report / "comparison.png")
    curves = _curves(layout.base, cells)
    _write_csv(layout.report / "curves.csv", curves)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in curves:
        # Every model in every panel, so that each keeps its color.
        panel = panels.setdefault(f"label ratio {point['label_ratio']}", {name: [] for name in sorted(scores)})
        panel[point["model"]].append((point["epoch"], 100 * point["val_ciou"]))
    save_figure(plot_curves(panels), layout.report / "curves.png")
    summary = {f"{c['framework']}-{c['objective']}@{c['label_ratio']}": c["test"]["ciou"] for c in cells}
    write_json(layout.report / "summary.json", summary)
    write_text(layout.report / "report.html", make_page(layout.base, cells, rows, lines))


def _read_cells(base: Path) -> list[dict[str, Any]]:
    """Each evaluation's figures, with what :data:`avsl.report.contents.Cell` adds to them."""
    cells = []
    for path in base.glob("evaluate/*/*/metrics.json"):
        cell = json.loads(path.read_text())
        if not cell["test"]["n"]:
            raise DataError(f"{path}: its part 'test' has no row with a source in view, so there is no CIoU to compare")
        trained = base / "train" / path.parent.relative_to(base / "evaluate") / "run.json"
        cell["run"] = json.loads(trained.read_text())
        cell["interval"] = _interval(path.with_name("per_sample.csv"))
        cells.append(cell)
    several = len({cell["objective"] for cell in cells}) > 1
    for cell in cells:
        cell["model"] = f"{cell['framework']} + {cell['objective']}" if several else cell["framework"]
    return sorted(cells, key=lambda cell: (cell["label_ratio"], cell["framework"], cell["objective"]))


def _interval(table: Path) -> tuple[float, float]:
    """The 95 % bootstrap interval of test CIoU@0.5, in per cent."""
    with table.open(newline="") as file:
        scores = [float(line["ciou"]) for line in csv.DictReader(file) if line["part"] == "test" and line["ciou"]]
    low, high = bootstrap_interval(torch.tensor(scores) >= 0.5)
    return 100 * low, 100 * high


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
                "objective": cell["objective"],
                "labels": f"{100 * cell['label_ratio']:g} % ({cell['labeled']})",
                "OGL": ogl,
                "n of N": n_of_n(test),
            }
            | _figures(test, cell["interval"] if figures is cell else None)
            | {"training (s)": f"{cell['train_seconds']:.0f}"}
        )
    for name, figures in cells[0]["baselines"].items():
        rows.append(
            {"model": _TITLES[name], "objective": "none", "labels": "none", "OGL": "no"}
            | {"n of N": n_of_n(cells[0]["test"])}
            | _figures(figures, None)
            | {"training (s)": ""}
        )
    return rows


def _figures(found: Mapping[str, Any], interval: tuple[float, float] | None) -> dict[str, str]:
    """The columns of scores, in per cent; empty where there is none."""
    columns = {title: f"{100 * found[key]:.1f}" if key in found else "" for title, key in _COLUMNS}
    said = "" if interval is None else "{:.1f} to {:.1f}".format(*interval)
    return {"CIoU": columns["CIoU"], "CIoU, 95 % interval": said} | columns


def _subsets(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for cell, ogl, scored in _scored(cells):
        for part, figures in scored.items():
            if part.startswith("test"):
                head = {key: cell[key] for key in ("framework", "objective", "label_ratio")}
                head |= {"ogl": ogl, "part": part}
                rows.append(head | {key: value for key, value in figures.items() if not isinstance(value, Mapping)})
                sizes = figures.get("by_size", {})
                rows += [head | {"part": f"{part}/{size}"} | found for size, found in sizes.items()]
    first = cells[0]
    for part, figures in first.items():
        if part.startswith("test"):
            known = first["baselines"] if part == "test" else figures.get("baselines", {})
            counts = {key: figures[key] for key in ("n", "n_silent", "n_listed") if key in figures}
            rows += [
                {"framework": _TITLES[name], "objective": "none", "ogl": "no", "part": part} | counts | found
                for name, found in known.items()
            ]
    return rows


def _curves(base: Path, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "model": cell["model"],
            "label_ratio": cell["label_ratio"],
            "epoch": int(float(line["epoch"])),
            "val_ciou": float(line["val/ciou"]),
        }
        for cell in cells
        for line in read_curves(base, cell)
    ]


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
        " the interval is of other test rows (bootstrap), not of other seeds;"
        " *oracle* is told the true area and selects nothing;"
        " *OGL* mixes in what looks like an object, whatever is heard."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"
