"""Which parts of DMT and XPL pay: every combination of a method's parts, on a project that `dvc repro` has run.

    python -m benchmarks.study.ablations [--seeds 0 1] [--jobs 2] [--only 'dmt*'] [--tables]

A single removal hides what a part does where another part does the same work, so DMT's filter and intersection are
removed alone and together, and XPL's parts alone and in pairs, at two weights λ_u of the pseudo-labels. Every training
is a process of one thread in the project's own outputs and starts from the seed's shared weights. What is trained is
kept; an interrupted training continues from its checkpoint. Writes ablations.md beside this file.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from pathlib import Path

import numpy as np

from avsl.config.compose import compose
from avsl.evaluation.outcomes import compare_outcomes, read_test, summarize_outcomes
from avsl.files import write_text
from avsl.paths import Layout
from avsl.records import EvaluationRecord
from avsl.report.comparison import format_difference

RATIO = 0.03
WEIGHTS = (1, 3)
_XPL = {
    "sharpening": ["framework.xpl.temperature=1"],
    "label EMA": ["framework.xpl.label_momentum=0"],
    "cross": ["framework.xpl.cross=false"],
    "curriculum": ["framework.xpl.pacing.start=1", "framework.xpl.pacing.end=1"],
}
_DMT = {
    "filter": ["framework.dmt.tau=0"],
    "intersection": ["framework.dmt.target=first"],
}
_ABOUT = """CIoU@0.5 on
test in per cent, mean over seeds, and its difference from the whole method's at the same λ_u, over the same seeds and
samples, with a 95 % interval. Precision and recall of the accepted pseudo-labels against the hidden truth, pixel by
pixel, and the share of accepted clips: in the first epoch that has them → in the last one."""
_HEAD = (
    "| variant | seeds | CIoU | difference | precision | recall | accepted |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def plan() -> dict[str, list[str]]:
    """The overrides of every variant, by name; the whole methods first."""
    found = {}
    for (framework, parts), weight in product((("dmt", _DMT), ("xpl", _XPL)), WEIGHTS):
        for removed in (combination for size in (0, 1, 2) for combination in combinations(parts, size)):
            name = f"{framework} λ{weight}" + (f" without {' and '.join(removed)}" if removed else "")
            chosen = [f"framework={framework}", f"framework.{framework}.unlabeled_weight={weight}"]
            found[name] = [*chosen, *(override for part in removed for override in parts[part])]
    return found


def call(overrides: list[str], seed: int) -> list[str]:
    """What `avsl run` is called with."""
    return [*overrides, f"split.label_ratio={RATIO}", f"seed={seed}"]


def train(name: str, overrides: list[str], seed: int) -> None:
    """Train and evaluate one seed in a process of one thread, unless it is there.

    Raises:
        SystemExit: it failed; its output says why.
    """
    arguments = call(overrides, seed)
    if EvaluationRecord.exists(Layout.of(compose(arguments)).evaluation):
        return
    print(f"{name}, seed {seed}", flush=True)
    command = [sys.executable, "-m", "avsl.cli", "run", *arguments]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, seed {seed} failed:\n{done.stderr[-3000:]}")


def write_tables(variants: dict[str, list[str]], seeds: list[int], path: Path) -> None:
    """A row for each variant with an evaluation: its score, its difference from the whole, and its pseudo-labels."""
    layouts = {
        name: {seed: Layout.of(compose(call(overrides, seed))) for seed in seeds}
        for name, overrides in variants.items()
    }
    outcomes = {
        name: {seed: read_test(at.evaluation) for seed, at in of.items() if EvaluationRecord.exists(at.evaluation)}
        for name, of in layouts.items()
    }
    command = f"`python -m benchmarks.study.ablations --seeds {' '.join(map(str, seeds))}`"
    lines = ["# Ablations", "", f"{command} at {100 * RATIO:g} % labels, EZ-VSL. {_ABOUT}", "", *_HEAD]
    for name, of in outcomes.items():
        if not of:
            continue
        whole = name.split(" without ")[0]
        difference = ""
        if name != whole and outcomes[whole]:
            (pair,) = compare_outcomes({name: of, whole: outcomes[whole]})
            difference = format_difference(pair.difference)
        mean = 100 * summarize_outcomes(of).mean
        ends = np.mean([over_training(layouts[name][seed].train / "curves.csv") for seed in of], 0)
        pseudo = [f"{first:.2f} → {last:.2f}" for first, last in ends]
        lines.append(f"| {name} | {len(of)} | {mean:.1f} | {difference} | {' | '.join(pseudo)} |")
    write_text(path, "\n".join(lines) + "\n")


def over_training(curves: Path) -> list[tuple[float, float]]:
    """Precision, recall and acceptance of the pseudo-labels, in the first epoch that has them and in the last."""
    with curves.open(newline="") as file:
        epochs = [line for line in csv.DictReader(file) if line.get("pseudo/precision")]
    names = ("precision", "recall", "acceptance")
    return [(float(epochs[0][f"pseudo/{name}"]), float(epochs[-1][f"pseudo/{name}"])) for name in names]


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--only", default="*", help="variants by pattern")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    asked = parser.parse_args()
    variants = plan()
    if not asked.tables:
        chosen = [name for name in variants if fnmatch.fnmatch(name, asked.only)]
        with ThreadPoolExecutor(asked.jobs) as pool:
            list(pool.map(lambda job: train(job[1], variants[job[1]], job[0]), product(asked.seeds, chosen)))
    write_tables(variants, asked.seeds, Path(__file__).with_name("ablations.md"))


if __name__ == "__main__":
    main()
