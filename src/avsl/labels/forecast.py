"""`avsl labels forecast`: how many labels a score needs, from the runs of several label ratios and seeds."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.console import print_notice, print_table
from avsl.errors import DataError
from avsl.labels.learning_curve import FAR, BackTest, Forecast, Run, back_test, forecast
from avsl.labels.rounds import write_table
from avsl.paths import Layout
from avsl.records import EvaluationRecord
from avsl.schema import ConfigError
from avsl.stages.run import run
from avsl.viz.curves import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROBES = (0.25, 0.5, 1.0)


def forecast_labels(
    overrides: Sequence[str] = (), target: float = 0.6, more: int | None = None, probe: bool = False
) -> Path:
    """Fit the learning curve of every method that has runs of at least three numbers of labels.

    Scores are CIoU@0.5 on the part ``test``. Prints how many labels the target needs, what ``more`` labels would bring,
    and how forecasts from fewer labels would have turned out; writes the same as ``forecast.csv`` and
    ``forecast.png``.

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
    enough = {method: own for method, own in runs.items() if len({one.labels for one in own}) >= 3}
    if not enough:
        commands = "; ".join(shlex.join(["avsl", "run", *words]) for words in missing)
        raise DataError(
            f"{folders[0]}: no method was evaluated with three numbers of labels, which a learning curve "
            f"needs; --probe trains {config.framework.name} on shares of the labels, as do: {commands}"
        )
    for method in sorted(runs.keys() - enough):
        print_notice(f"{method}: left out, it has runs of fewer than three numbers of labels")
    made = {method: forecast(own) for method, own in sorted(enough.items())}
    rows = [_answer(method, found, enough[method], target, more) for method, found in made.items()]
    print_table(rows, f"CIoU@0.5 on test, 95 % intervals; '?' marks more than {FAR:g} times the labels seen, a guess")
    tests = {method: back_test(own) for method, own in sorted(enough.items())}
    print_table([_tested(method, test) for method, of_one in tests.items() for test in of_one], "forecasts of the past")
    path = config.root / config.data.name / "labels" / "forecast.csv"
    save_figure(_plot(made, enough, target), path.with_suffix(".png"))
    write_table(path, list(rows[0]), [list(row.values()) for row in rows])
    print(f"{path}, {path.with_suffix('.png')}")
    if config.data.name == "folder":
        added = max(found.most for found in made.values()) if more is None else more
        rest = [text for text in overrides if not text.startswith("split.")]
        print("next:", shlex.join(["avsl", "labels", "suggest", *rest, "--budget", str(added)]))
    return path


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


def _answer(method: str, made: Forecast, runs: Sequence[Run], target: float, more: int | None) -> dict[str, str]:
    best = float(np.mean([one.score for one in runs if one.labels == made.most]))
    then = made.most + (made.most if more is None else more)
    mark = " ?" if made.is_far(then) else ""
    score, low, high = made.score(then)
    return {
        "method": method,
        "runs": str(len(runs)),
        "most labels": f"{made.most:,}",
        "their CIoU": f"{best:.3f}",
        f"labels for {target:g}": _needed(made, target),
        f"CIoU with {then - made.most:,} more": f"{score:.3f} ({low:.3f} to {high:.3f}){mark}",
    }


def _needed(made: Forecast, target: float) -> str:
    needed, low, high = made.labels(target)
    if math.isinf(needed):
        return f"never: the curve ends at {made.curve.limit:.3f}" + ("" if math.isinf(low) else f", from {low:,.0f}")
    upper = "never" if math.isinf(high) else f"{math.ceil(high):,}"
    return f"{math.ceil(needed):,} ({math.ceil(low):,} to {upper})" + (" ?" if made.is_far(needed) else "")


def _tested(method: str, test: BackTest) -> dict[str, str]:
    return {
        "method": method,
        "from up to": f"{test.seen:,}",
        "for": f"{test.labels:,}" + (" ?" if test.labels > FAR * test.seen else ""),
        "forecast": f"{test.forecast:.3f} ({test.low:.3f} to {test.high:.3f})",
        "measured": f"{test.measured:.3f}",
        "error": f"{test.forecast - test.measured:+.3f}",
    }


def _plot(made: Mapping[str, Forecast], runs: Mapping[str, Sequence[Run]], target: float) -> Figure:
    """Plot runs and curves up to four times the largest number of labels, dashed beyond the runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, found in made.items():
        fewest = min(one.labels for one in runs[method])
        (points,) = axes.plot([one.labels for one in runs[method]], [one.score for one in runs[method]], "o", ms=4)
        color = points.get_color()
        seen, ahead = (np.geomspace(a, b, 60) for a, b in ((fewest, found.most), (found.most, FAR * found.most)))
        axes.plot(seen, [found.curve.score(n) for n in seen], color=color, label=method)
        axes.plot(ahead, [found.curve.score(n) for n in ahead], "--", color=color)
        whole = np.concatenate([seen, ahead])
        _, low, high = np.transpose([found.score(n) for n in whole])
        axes.fill_between(whole, low, high, color=color, alpha=0.15, linewidth=0)
    axes.axhline(target, linestyle=":", color="gray", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("labeled training samples")
    axes.set_ylabel("CIoU@0.5 on test")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
