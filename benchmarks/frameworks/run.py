"""The README's table: frameworks at 3 % and 10 % labels, three seeds, with the controls that make them comparable.

    python benchmarks/frameworks/run.py [--seeds 0 1 2] [--ratios 0.03 0.1] [--jobs 2]

Every training is a process of one thread; ``--jobs`` of them run side by side. Interrupted, the command goes on where
it was: a finished cell is not trained again, a killed one continues from its checkpoint. A seed draws the labelled
clips, the weights and the data order. Writes results.json, table.md and comparison.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avsl.config import compose, project_root
from avsl.engine.evaluate import evaluate_on
from avsl.engine.layout import Layout
from avsl.engine.prepare import load_data, prepare
from avsl.files import write_json, write_text
from avsl.models import load_exported
from avsl.viz.curves import plot_comparison, save_figure

HERE = Path(__file__).parent
# What is trained: the framework's overrides and what is added to the seed.
CELLS = {
    "labels only": (["framework=supervised", "framework.supervised.contrastive_weight=0"], 0),
    "labels + contrastive": (["framework=supervised"], 0),
    "mean-teacher": (["framework=mean_teacher"], 0),
    "mean-teacher, second": (["framework=mean_teacher"], 100),
    "DMT": (["framework=dmt"], 0),
}
ROWS = (
    "labels only",
    "labels + contrastive",
    "mean-teacher",
    "two mean-teachers averaged",
    "one DMT teacher",
    "DMT's pair",
)
SCORES = ("ciou", "auc", "ciou_median", "ciou_oracle", "ciou_shuffled")


@dataclass(frozen=True)
class Cell:
    """One training."""

    name: str
    ratio: float
    seed: int
    work: Path

    def overrides(self) -> list[str]:
        """What `avsl` is called with."""
        framework, offset = CELLS[self.name]
        folder = self.work / f"{self.name.replace(' ', '_').replace(',', '')}-{self.seed}"
        # The second mean-teacher of a pair sees the same labels and differs in weights and order alone.
        return [
            *framework,
            f"root={folder}",
            f"seed={self.seed + offset}",
            f"split.seed={self.seed}",
            f"split.label_ratio={self.ratio}",
            f"tracking.uri=sqlite:///{self.work.resolve()}/mlflow/mlflow.db",
        ]

    @cached_property
    def layout(self) -> Layout:
        """Where it leaves its results."""
        return Layout.of(compose(self.overrides()))

    def link(self, prepared: Path) -> None:
        """Use the one prepared data set."""
        self.layout.base.mkdir(parents=True, exist_ok=True)
        if not self.layout.prepared.exists():
            self.layout.prepared.symlink_to(prepared.resolve())

    def run(self) -> None:
        """Train and evaluate, unless that is done.

        Raises:
            SystemExit: a step failed; its output is in the folder's log.
        """
        layout = self.layout
        if (layout.evaluation / "metrics.json").is_file():
            return
        log = layout.base / f"{self.ratio}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        for step in ("split", "train", "evaluate"):
            command = [sys.executable, str(project_root() / "pipelines" / f"{step}.py"), *self.overrides()]
            with log.open("a") as stream:
                if subprocess.run(command, env=environment, stdout=stream, stderr=stream).returncode:
                    raise SystemExit(f"{self}: {step} failed, see {log}")
        print(f"done: {self.name}, {self.ratio}, seed {self.seed}", flush=True)

    def figures(self) -> dict[str, Any]:
        """What its evaluation found."""
        figures: dict[str, Any] = json.loads((self.layout.evaluation / "metrics.json").read_text())
        return figures


def measure(work: Path, ratio: float, seed: int) -> dict[str, dict[str, float]]:
    """Each row's test scores and training seconds at one ratio and seed."""
    cells = {name: Cell(name, ratio, seed, work) for name in CELLS}
    found = {name: cell.figures() for name, cell in cells.items()}
    rows = {name: _scores(found[name]["test"], found[name]["train_seconds"]) for name in ROWS if name in found}
    pair = ("mean-teacher", "mean-teacher, second")
    seconds = sum(found[name]["train_seconds"] for name in pair)
    rows["two mean-teachers averaged"] = _scores(_together([cells[name] for name in pair]), seconds)
    dmt = found["DMT"]
    rows["DMT's pair"] = _scores(dmt["test"], dmt["train_seconds"])
    alone = [_scores(dmt[f"member_{k}"]["test"], dmt["train_seconds"]) for k in (0, 1)]
    rows["one DMT teacher"] = {key: statistics.mean(one[key] for one in alone) for key in alone[0]}
    return {name: rows[name] for name in ROWS}


def _together(cells: Sequence[Cell]) -> dict[str, Any]:
    """Test figures of several exported models, averaged; the threshold is chosen for the average."""
    configs = [compose(cell.overrides()) for cell in cells]
    data, drawn = load_data(Layout.of(configs[0]))
    members = [member for c in configs for member in load_exported(Layout.of(c).train / "model")[0].members]
    test: dict[str, Any] = evaluate_on(configs[0], data, drawn, members).figures["test"]
    return test


def _scores(test: dict[str, Any], seconds: float) -> dict[str, float]:
    return {key: 100 * test[key] for key in SCORES} | {"seconds": seconds}


def _spread(values: Iterable[float]) -> str:
    listed = list(values)
    return f"{statistics.mean(listed):.1f} ± {statistics.stdev(listed):.1f}" if len(listed) > 1 else f"{listed[0]:.1f}"


def write(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    """Write the committed results: by ratio, seed and row."""
    write_json(HERE / "results.json", results)
    head = "| labels | model | CIoU | AUC | CIoU, median | CIoU, oracle | CIoU, shuffled sound | training (s) |"
    lines = [head, "|" + " --- |" * 8]
    for ratio, seeds in results.items():
        for row in ROWS:
            cells = [_spread(seed[row][key] for seed in seeds.values()) for key in SCORES]
            seconds = statistics.mean(seed[row]["seconds"] for seed in seeds.values())
            lines.append(f"| {100 * float(ratio):g} % | {row} | {' | '.join(cells)} | {seconds:.0f} |")
    write_text(HERE / "table.md", "\n".join(lines) + "\n")
    scores = {
        row: {float(ratio): [seed[row]["ciou"] for seed in seeds.values()] for ratio, seeds in results.items()}
        for row in ROWS
    }
    save_figure(plot_comparison(scores, "test CIoU@0.5, fixed threshold (%)"), HERE / "comparison.png")


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.03, 0.1])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/frameworks"), help="trainings (default: %(default)s)"
    )
    options = parser.parse_args()
    prepare([f"root={options.work / 'data'}"])
    cells = [
        Cell(name, ratio, seed, options.work) for seed in options.seeds for ratio in options.ratios for name in CELLS
    ]
    # One ratio after the other: a row is complete as early as it can be.
    cells.sort(key=lambda cell: (cell.ratio, cell.seed, cell.name != "DMT"))
    prepared = Layout.of(compose([f"root={options.work / 'data'}"])).prepared
    for cell in cells:
        cell.link(prepared)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(Cell.run, cells))
    write({str(r): {str(s): measure(options.work, r, s) for s in options.seeds} for r in options.ratios})
    print((HERE / "table.md").read_text())


if __name__ == "__main__":
    main()
