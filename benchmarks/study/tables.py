"""The study's tables and figures, from results.json alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.plan import OBJECTIVES, RATIOS, SCENES_RATIO, SEEDS, cells

from avsl.files import write_text
from avsl.viz.curves import plot_comparison, plot_label_curve, save_figure

Results = Mapping[str, Any]

ROWS = {
    "labels_only": "labels only",
    "supervised": "labels + contrastive",
    "pseudo_label": "pseudo-label",
    "mean_teacher": "mean-teacher",
    "two_mean_teachers": "two mean-teachers averaged",
    "xpl": "XPL",
    "dmt": "DMT",
    "self_supervised": "self-supervised",
}
_SUBSETS = ("test_small", "test_duet", "test_swap", "test_unheard")


def write_tables(results: Results, folder: Path) -> None:
    """Write every table that has a row, and the figures."""
    tables = {
        "choices": _choices(results),
        "curve": _curve(results),
        "objectives": _objectives(results),
        "ablations": _ablations(results),
        "subsets": _subsets(results),
        "scenes": _scenes(results),
    }
    for name, lines in tables.items():
        if len(lines) > 2:
            write_text(folder / f"{name}.md", "\n".join(lines) + "\n")
    scores = {
        label: {r: values for r in RATIOS if (values := _values(results, variant, r, "test", "ciou"))}
        for variant, label in ROWS.items()
        if variant != "self_supervised"
    }
    scores = {label: by_ratio for label, by_ratio in scores.items() if by_ratio}
    if not scores:
        return
    trivial = next(iter(entry["baselines"] for entry in results.values() if "baselines" in entry))
    lines_ = {"centred disc": trivial["centred_disc"]["ciou"]}
    if alone := _values(results, "self_supervised", 0.03, "test", "ciou"):
        lines_["self-supervised"] = statistics.fmean(alone)
    ylabel = "test CIoU@0.5, fixed threshold (%)"
    save_figure(plot_label_curve(scores, ylabel, lines_), folder / "curve.png")
    repeated = {label: {r: v for r, v in by_ratio.items() if len(v) > 1} for label, by_ratio in scores.items()}
    repeated = {label: by_ratio for label, by_ratio in repeated.items() if by_ratio}
    if repeated:
        save_figure(plot_comparison(repeated, ylabel, lines_), folder / "comparison.png")


def _entries(results: Results, variant: str, ratio: float, data: str = "synthetic") -> list[Any]:
    names = [f"{data}/{variant}/{ratio:g}/{seed}" for seed in SEEDS]
    return [results[name] for name in names if name in results]


def _values(results: Results, variant: str, ratio: float, part: str, key: str, data: str = "synthetic") -> list[float]:
    found = [entry["figures"].get(part, {}).get(key) for entry in _entries(results, variant, ratio, data)]
    return [value for value in found if value is not None]


def _spread(values: Iterable[float], digits: int = 1) -> str:
    listed = list(values)
    if not listed:
        return "-"
    mean = f"{statistics.fmean(listed):.{digits}f}"
    return f"{mean} ± {statistics.stdev(listed):.{digits}f}" if len(listed) > 1 else mean


def _head(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


def _test_columns(results: Results, variant: str, ratio: float, data: str = "synthetic") -> list[str]:
    keys = ("ciou", "auc", "ciou_70", "ciou_median", "ciou_oracle", "ciou_shuffled")
    return [_spread(_values(results, variant, ratio, "test", key, data)) for key in keys]


_TEST = ("CIoU", "AUC", "CIoU@0.7", "median", "oracle", "shuffled sound")


def _curve(results: Results) -> list[str]:
    lines = _head("labels", "model", "seeds", *_TEST, "spread of late validation", "training (s)")
    for ratio in RATIOS:
        for variant, label in ROWS.items():
            entries = _entries(results, variant, ratio)
            if not entries:
                continue
            seconds = [entry["seconds"] for entry in entries if "seconds" in entry]
            late = [entry["late_spread"] for entry in entries if "late_spread" in entry]
            columns = _test_columns(results, variant, ratio)
            shown = "none" if variant == "self_supervised" else f"{100 * ratio:g} %"
            name = {"xpl": "XPL's pair", "dmt": "DMT's pair"}.get(variant, label)
            time = f"{statistics.fmean(seconds):.0f}" if seconds else "-"
            lines.append(_row(shown, name, str(len(entries)), *columns, _spread(late, 2), time))
            if variant in ("dmt", "xpl"):
                alone = {"dmt": "one DMT teacher", "xpl": "one XPL peer"}[variant]
                lines.append(_row(shown, alone, str(len(entries)), *_one_member(entries), "", ""))
    return lines


def _one_member(entries: Sequence[Any]) -> list[str]:
    """The mean of a pair's members, each on its own."""
    keys = ("ciou", "auc", "ciou_70", "ciou_median", "ciou_oracle", "ciou_shuffled")
    columns = []
    for key in keys:
        means = []
        for entry in entries:
            members = [
                part[key] for name, part in entry["figures"].items() if name.startswith("member_") and key in part
            ]
            if members:
                means.append(statistics.fmean(members))
        columns.append(_spread(means))
    return columns


def _objectives(results: Results) -> list[str]:
    lines = _head("objective", "alone", "AUC", "shuffled sound", "under DMT", "AUC", "shuffled sound")
    for objective in OBJECTIVES:
        columns = []
        for framework in ("self_supervised", "dmt"):
            variant = framework if objective == "ezvsl" else f"{framework}+{objective}"
            for key in ("ciou", "auc", "ciou_shuffled"):
                columns.append(_spread(_values(results, variant, 0.03, "test", key)[:1]))
        if any(column != "-" for column in columns):
            lines.append(_row(objective, *columns))
    return lines


def _choices(results: Results) -> list[str]:
    """Validation alone: what is chosen here is never looked at on test."""
    lines = _head("setting", "validation CIoU")
    for cell in cells():
        if cell.group == "choices" and cell.name in results:
            lines.append(_row(cell.variant, f"{results[cell.name]['figures']['validation']['ciou']:.1f}"))
    return lines


def _ablations(results: Results) -> list[str]:
    """Against the whole method on the same seeds."""
    lines = _head("variant", "seeds", "CIoU", "whole method", "difference")
    whole = {"dmt": "dmt", "xpl": "xpl", "fnac": "self_supervised+fnac", "sspl": "self_supervised+sspl"}
    for variant in dict.fromkeys(cell.variant for cell in cells() if cell.group == "ablations"):
        reference = whole.get(variant.split()[0])
        if reference is None:  # one of the references
            continue
        pairs = []
        for seed in SEEDS:
            names = [f"synthetic/{name}/0.03/{seed}" for name in (variant, reference)]
            if all(name in results for name in names):
                pairs.append([results[name]["figures"]["test"]["ciou"] for name in names])
        if pairs:
            without, with_ = zip(*pairs, strict=True)
            difference = [a - b for a, b in pairs]
            lines.append(_row(variant, str(len(pairs)), _spread(without), _spread(with_), _spread(difference)))
    return lines


def _subsets(results: Results) -> list[str]:
    lines = _head("labels", "model", "small", "duet", "swap", "unheard", "swap IIoU", "off-screen AP", "max-F1")
    for ratio in (0.03, 0.1):
        for variant, label in ROWS.items():
            if not _entries(results, variant, ratio):
                continue
            columns = [_spread(_values(results, variant, ratio, part, "ciou")) for part in _SUBSETS]
            columns.append(_spread(_values(results, variant, ratio, "test_swap", "iiou")))
            columns += [_spread(_values(results, variant, ratio, "test_offscreen", key)) for key in ("ap", "max_f1")]
            shown = "none" if variant == "self_supervised" else f"{100 * ratio:g} %"
            lines.append(_row(shown, label, *columns))
    return lines


def _scenes(results: Results) -> list[str]:
    lines = _head("labels", "model", *_TEST, "training (s)")
    for variant, label in ROWS.items():
        for entry in _entries(results, variant, SCENES_RATIO, "scenes"):
            columns = _test_columns(results, variant, SCENES_RATIO, "scenes")
            lines.append(_row(f"{100 * SCENES_RATIO:g} %", label, *columns, f"{entry['seconds']:.0f}"))
    return lines
