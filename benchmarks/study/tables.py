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
_ABOUT = """`python -m benchmarks.study.run --scenes FOLDER`, resumable; every cell, with its commit, is in
[results.json](results.json). The embedded set with 3,000 training clips, 12 epochs of equal budget in samples seen,
EZ-VSL as the objective where nothing else is said; no object prior (OGL) anywhere. CIoU@0.5 and AUC in per cent on
test, at one fixed threshold chosen on validation; mean and standard deviation over seeds, each with labeled clips,
weights and order of its own. *median* and *oracle* are the usual other conventions, the latter told the truth. Training
seconds are of one thread beside other work, suspended times included (20 minutes at 1 and 30 %), and so say little."""
# What the papers claim, in points of CIoU.
_OVER_SIMPLE, _OVER_UNLABELED, _OF_FULL = 4.6, 8.9, 95.0
_SCENES_ALONE = f"scenes/self_supervised/{SCENES_RATIO:g}/0"
_SUBSETS = ("test_small", "test_duet", "test_swap", "test_unheard")


def write_tables(results: Results, folder: Path) -> None:
    """Write ``results.md``, with every table that has a row, and the figures."""
    sections = {
        "CIoU over label ratios": [*_short_curve(results), "", "![CIoU over label ratios](curve.png)"],
        "Targets": _targets(results),
        "Everything over label ratios": _curve(results),
        "Objectives at 3 % labels, seed 0": _objectives(results),
        "Ablations at 3 % labels": _ablations(results),
        "Test parts": _subsets(results),
        f"Real sounds on real photographs, {100 * SCENES_RATIO:g} % labels, 160 px": _scenes(results),
        "Objectives alone below the disc, one circumstance changed at a time: validation, seed 0": _on_validation(
            results, "causes", {"sspl": "synthetic/self_supervised+sspl/0.03/0", "ezvsl on scenes": _SCENES_ALONE}
        ),
        "How settings were chosen, on validation at 3 % labels, seed 0": _on_validation(results, "choices", {}),
    }
    lines = ["# The study", "", _ABOUT]
    for title, body in sections.items():
        if len(body) > 2:
            lines += ["", f"## {title}", "", *body]
    write_text(folder / "results.md", "\n".join(lines) + "\n")
    scores = {
        label: {r: values for r in RATIOS if (values := _values(results, variant, r, "test", "ciou"))}
        for variant, label in ROWS.items()
        if variant != "self_supervised"
    }
    scores = {label: by_ratio for label, by_ratio in scores.items() if by_ratio}
    if not scores:
        return
    trivial = next(iter(entry["baselines"] for entry in results.values() if "baselines" in entry))
    disc = trivial.get("centered_disc") or trivial["centred_disc"]  # records of an earlier spelling
    lines_ = {"centered disc": disc["ciou"]}
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


def _by_seed(results: Results, variant: str) -> dict[int, float]:
    """Test CIoU at 3 % labels."""
    names = {seed: f"synthetic/{variant}/0.03/{seed}" for seed in SEEDS}
    return {seed: results[name]["figures"]["test"]["ciou"] for seed, name in names.items() if name in results}


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


def _short_curve(results: Results) -> list[str]:
    """CIoU alone: a line for each model, a column for each ratio."""
    present = [ratio for ratio in RATIOS if any(_values(results, v, ratio, "test", "ciou") for v in ROWS)]
    lines = _head("model", *(f"{100 * ratio:g} % (n = {_seeds(results, ratio)})" for ratio in present))
    for variant, label in ROWS.items():
        if variant != "self_supervised":
            lines.append(_row(label, *(_spread(_values(results, variant, r, "test", "ciou")) for r in present)))
    if alone := _values(results, "self_supervised", 0.03, "test", "ciou"):
        lines.append(_row(f"self-supervised, no labels: {_spread(alone)}", *[""] * len(present)))
    return lines


def _seeds(results: Results, ratio: float) -> int:
    return max(len(_values(results, variant, ratio, "test", "ciou")) for variant in ROWS)


def _targets(results: Results) -> list[str]:
    """What the papers claim, and what was found."""
    mean = {v: statistics.fmean(found) for v in ROWS if (found := _values(results, v, 0.03, "test", "ciou"))}
    each = {objective: _by_seed(results, _of_objective("self_supervised", objective)) for objective in OBJECTIVES}
    alone = {objective: scores for objective, scores in each.items() if scores}
    full = _values(results, "supervised", 1.0, "test", "ciou")
    lines = []
    for variant in ("dmt", "xpl"):
        simple = max(("pseudo_label", "mean_teacher"), key=lambda v: mean.get(v, 0.0))
        if variant in mean and simple in mean:
            gain = mean[variant] - mean[simple]
            said = f"{ROWS[variant]} at 3 % is {gain:+.1f} from {ROWS[simple]}, the better of the two simple frameworks"
            lines.append(_verdict(said, gain, _OVER_SIMPLE))
        if variant in mean and alone:
            whole = _by_seed(results, variant)
            gains = {
                objective: statistics.fmean(whole[seed] - scores[seed] for seed in whole.keys() & scores.keys())
                for objective, scores in alone.items()
            }
            best = min(gains, key=lambda objective: gains[objective])
            seeds = ", ".join(map(str, sorted(whole.keys() & alone[best].keys())))
            said = (
                f"{ROWS[variant]} at 3 % is {gains[best]:+.1f} from the nearest objective alone, {best} (seeds {seeds})"
            )
            lines.append(_verdict(said, gains[best], _OVER_UNLABELED))
        if full and (tenth := _values(results, variant, 0.1, "test", "ciou")):
            share = 100 * statistics.fmean(tenth) / statistics.fmean(full)
            said = f"{ROWS[variant]} at 10 % has {share:.1f} % of the CIoU of labels + contrastive at 100 %"
            lines.append(_verdict(said, share, _OF_FULL))
    return lines


def _verdict(said: str, value: float, target: float) -> str:
    return f"- {said}: target {target:g} {'reached' if value >= target else f'missed by {target - value:.1f}'}."


def _of_objective(framework: str, objective: str) -> str:
    """The variant of a framework over an objective; EZ-VSL's are the curve's."""
    return framework if objective == "ezvsl" else f"{framework}+{objective}"


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
            variant = _of_objective(framework, objective)
            for key in ("ciou", "auc", "ciou_shuffled"):
                columns.append(_spread(_values(results, variant, 0.03, "test", key)[:1]))
        if any(column != "-" for column in columns):
            lines.append(_row(objective, *columns))
    return lines


def _on_validation(results: Results, group: str, references: Mapping[str, str]) -> list[str]:
    """Validation alone: what is looked at here is never looked at on test. First the cells that others differ from."""
    lines = _head("setting", "validation CIoU")
    names = {**references, **{cell.variant: cell.name for cell in cells() if cell.group == group}}
    for shown, name in names.items():
        if name in results:
            lines.append(_row(shown, f"{results[name]['figures']['validation']['ciou']:.1f}"))
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
    trivial: dict[str, dict[str, float]] = {}
    for variant, label in ROWS.items():
        for entry in _entries(results, variant, SCENES_RATIO, "scenes"):
            trivial = entry["baselines"]
            columns = _test_columns(results, variant, SCENES_RATIO, "scenes")
            shown = "none" if variant == "self_supervised" else f"{100 * SCENES_RATIO:g} %"
            lines.append(_row(shown, label, *columns, f"{entry['seconds']:.0f}"))
    for name, scores in trivial.items():
        keys = ("ciou", "auc", "ciou_70", "ciou_median")
        columns = [f"{scores[key]:.1f}" if key in scores else "" for key in keys]
        lines.append(_row("none", name.replace("_", " "), *columns, "", "", ""))
    return lines
