"""The study: frameworks over label ratios, objectives, ablations, subsets, real scenes.

    python -m benchmarks.study.run [--only 'synthetic/dmt/*'] [--jobs 2] [--scenes FOLDER]

Every training is a process of one thread; ``--jobs`` of them run side by side. A cell whose figures stand in
results.json for the same settings is done; others are trained, going on from their checkpoints where they were
interrupted.
``--list`` says what is there and what is missing; ``--force`` trains again; ``--tables`` only writes the tables.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.study.plan import GROUPS, ON_VALIDATION, Cell, cells
from benchmarks.study.tables import write_tables

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
_LOCK = threading.Lock()


def overrides_of(cell: Cell, work: Path, scenes: str) -> list[str]:
    """What `avsl` is called with."""
    return [
        *cell.overrides,
        *([f"data.vggss.root={scenes}"] if cell.data == "scenes" else []),
        *([f"model.image.weights={_trunk(cell, work)}"] if cell.trunk else []),
        f"root={_folder(cell, work)}",
        f"seed={cell.seed + cell.weights_seed}",
        f"split.seed={cell.seed}",
        f"split.label_ratio={cell.ratio}",
        f"tracking.uri=sqlite:///{work.resolve()}/mlflow/mlflow.db",
        "tracking.system_metrics=false",
    ]


def _folder(cell: Cell, work: Path) -> Path:
    return work / cell.data / f"{cell.variant.replace(' ', '_').replace(',', '')}-{cell.seed}"


def _trunk(cell: Cell, work: Path) -> Path:
    return (work / "trunks" / f"{cell.trunk.replace('/', '-')}.safetensors").resolve()


def settings_hash(overrides: Sequence[str]) -> str:
    """SHA-256 of all settings that decide a cell's figures and are not their default.

    A new setting whose default is what was done before leaves it as it is.
    """
    from avsl.config.compose import compose

    config = compose(overrides)
    decisive: dict[str, Any] = {"seed": config.seed}
    for section in ("split", "model", "augment", "trainer"):
        decisive[section] = getattr(config, section).model_dump(mode="json", exclude_defaults=True)
    for section in ("data", "objective", "framework"):
        choice = getattr(config, section)
        decisive[section] = [choice.name, choice.settings.model_dump(mode="json", exclude_defaults=True)]
    decisive["data"][1].pop("root", None)
    if config.model.image.weights:
        decisive["model"]["image"]["weights"] = Path(config.model.image.weights).name
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def train_and_evaluate(overrides: Sequence[str], group: str) -> None:
    """Split, train and evaluate in this process; what is there is kept.

    What is looked at on validation alone is not evaluated: training leaves that score.
    """
    from avsl.cli import call
    from avsl.config.compose import compose
    from avsl.paths import Layout
    from avsl.records import RunRecord
    from avsl.stages.evaluate import evaluate
    from avsl.stages.prepare import split
    from avsl.stages.train import train

    layout = Layout.of(compose(overrides))

    def steps() -> None:
        if not RunRecord.exists(layout.train):
            split(overrides)
            train(overrides)
        if group not in ON_VALIDATION:
            evaluate(overrides)

    if code := call(steps):
        raise SystemExit(code)


def figures_of(overrides: Sequence[str], group: str) -> dict[str, Any]:
    """What is kept of a cell: scores in per cent, seconds, and how steady validation was."""
    from avsl.config.compose import compose
    from avsl.paths import Layout
    from avsl.records import EvaluationRecord, RunRecord

    layout = Layout.of(compose(overrides))
    if group in ON_VALIDATION:
        scored = RunRecord.load(layout.train).validation
        assert scored is not None
        return {"figures": {"validation": _numbers(scored.model_dump())}}
    found = EvaluationRecord.load(layout.evaluation)
    parts = dict(found.parts) | {f"member_{k}": member.test for k, member in enumerate(found.members)}
    kept = {part: _numbers({**scores.counts, **scores.scores}) for part, scores in parts.items()}
    with (layout.train / "curves.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    late = [100 * float(line["val/ciou"]) for line in epochs[-max(2, len(epochs) // 4) :]]
    last = {key: float(value) for key, value in epochs[-1].items() if key.startswith("pseudo/") and value}
    return {
        "figures": kept,
        "baselines": {name: _numbers(values) for name, values in found.baselines.items()},
        "late_spread": round(statistics.pstdev(late), 3),
        "pseudo": {key: round(value, 4) for key, value in last.items()},
        "seconds": found.train_seconds,
        "labeled": found.labeled,
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Shares in per cent, counts as they are; breakdowns are left in the evaluation's own files."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, int):
            kept[key] = value
        elif isinstance(value, float):
            kept[key] = round(100 * value, 3)
    return kept


def average_of(first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """Figures of two exported models averaged; the threshold is chosen for the average."""
    from avsl.config.compose import compose
    from avsl.models import load_exported
    from avsl.paths import Layout
    from avsl.stages.evaluate import evaluate_on
    from avsl.stages.prepare import load_data

    configs = [compose(overrides) for overrides in (first, second)]
    data, drawn = load_data(Layout.of(configs[0]))
    members = [member for c in configs for member in load_exported(Layout.of(c).train / "model")[0].members]
    figures = evaluate_on(configs[0], data, drawn, members).figures
    kept = {key: _numbers(figures[key]) for key in figures if key.startswith(("test", "validation"))}
    return {"figures": kept}


def read_results() -> dict[str, Any]:
    """The recorded cells by name."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return found


def record(name: str, entry: dict[str, Any]) -> None:
    """Add one cell to results.json."""
    from avsl.files import write_text

    with _LOCK:
        results = read_results() | {name: entry}
        lines = [f"{json.dumps(key)}: {json.dumps(results[key], sort_keys=True)}" for key in sorted(results)]
        write_text(RESULTS, "{\n" + ",\n".join(lines) + "\n}\n")


class Study:
    """Runs cells and keeps their figures."""

    def __init__(self, work: Path, scenes: str, commit: str) -> None:
        self.work = work
        self.scenes = scenes
        self.commit = commit

    def is_done(self, cell: Cell, results: dict[str, Any]) -> bool:
        """Whether its figures are recorded for the settings that it would have now."""
        entry = results.get(cell.name)
        return entry is not None and entry["settings"] == settings_hash(self.overrides(cell))

    def overrides(self, cell: Cell) -> list[str]:
        """What it is trained with."""
        return overrides_of(cell, self.work, self.scenes)

    def prepare(self, chosen: Sequence[Cell]) -> None:
        """Make each data set once and link every cell to it."""
        from avsl.config.compose import compose
        from avsl.paths import Layout
        from avsl.stages.prepare import prepare

        sources: dict[str, Path] = {}
        for cell in chosen:
            root = self.work / "data" / cell.data
            if cell.data not in sources:
                overrides = [*self.overrides(cell), f"root={root}"]
                prepare(overrides)
                sources[cell.data] = Layout.of(compose(overrides)).prepared
            layout = Layout.of(compose(self.overrides(cell)))
            layout.base.mkdir(parents=True, exist_ok=True)
            if not layout.prepared.exists():
                layout.prepared.symlink_to(sources[cell.data].resolve())

    def cut_trunks(self, chosen: Sequence[Cell]) -> None:
        """Write the image trunks that cells start from as files of their own.

        Raises:
            SystemExit: the model that one is taken from is not trained here.
        """
        from safetensors.torch import load_file, save_file

        from avsl.config.compose import compose
        from avsl.paths import Layout

        by_name = {cell.name: cell for cell in cells()}
        for cell in chosen:
            if not cell.trunk:
                continue
            model = Layout.of(compose(self.overrides(by_name[cell.trunk]))).train / "model" / "model.safetensors"
            if not model.is_file():
                raise SystemExit(
                    f"{cell.name} starts from {cell.trunk}: train that first (--only '{cell.trunk}' --force)"
                )
            before = "members.0.image.backbone."
            tensors = {key[len(before) :]: value for key, value in load_file(model).items() if key.startswith(before)}
            target = _trunk(cell, self.work)
            target.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, target)

    def run(self, cell: Cell) -> None:
        """Train and evaluate a cell in a process of its own, then record it.

        Raises:
            SystemExit: it failed; its output is in the folder's log.
        """
        overrides = self.overrides(cell)
        log = _folder(cell, self.work) / f"{cell.ratio:g}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # One thread each: two trainings side by side do more than one with two threads.
        command = [sys.executable, "-m", "benchmarks.study.run", "--worker", cell.group, *overrides]
        with log.open("a") as stream:
            code = subprocess.run(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=stream, stderr=stream
            ).returncode
        if code:
            raise SystemExit(f"{cell.name} failed, see {log}")
        entry = figures_of(overrides, cell.group)
        record(cell.name, entry | {"settings": settings_hash(overrides), "commit": self.commit})
        print(f"done: {cell.name}", flush=True)

    def run_pairs(self, chosen: Sequence[Cell]) -> None:
        """The control for a pair: two mean-teachers on the same labels, averaged."""
        by_name = {cell.name: cell for cell in cells()}
        for cell in chosen:
            if cell.variant != "mean_teacher-second":
                continue
            first = self.overrides(by_name[cell.name.replace("mean_teacher-second", "mean_teacher")])
            second = self.overrides(cell)
            settings = settings_hash(second)
            name = cell.name.replace("mean_teacher-second", "two_mean_teachers")
            if read_results().get(name, {}).get("settings") == settings:
                continue
            record(name, average_of(first, second) | {"settings": settings, "commit": self.commit})


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of DATA/VARIANT/RATIO/SEED")
    parser.add_argument("--group", nargs="+", default=GROUPS, choices=GROUPS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scenes", default="", help="folder of real scenes in VGG-SS's layout; left out without it")
    parser.add_argument("--work", type=Path, default=Path("outputs/study"), help="trainings (default: %(default)s)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        group, *overrides = options.worker
        train_and_evaluate(overrides, group)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    study = Study(options.work, options.scenes, commit.strip())
    chosen = [
        cell
        for cell in cells()
        if cell.group in options.group
        and any(fnmatch.fnmatch(cell.name, pattern) for pattern in options.only)
        and (cell.data != "scenes" or options.scenes)
    ]
    results = read_results()
    missing = [cell for cell in chosen if options.force or not study.is_done(cell, results)]
    if options.list:
        for cell in chosen:
            print("missing" if cell in missing else "done   ", cell.name)
        return
    if not options.tables:
        study.prepare(missing)
        study.cut_trunks(missing)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(study.run, missing))
        study.run_pairs(chosen)
    write_tables(read_results(), HERE)


if __name__ == "__main__":
    main()
