"""What the sweep is worth, at equal compute, and what it costs.

    python -m benchmarks.sweep.run [--seeds 0 1 2] [--trials 12] [--work FOLDER] [KEY=VALUE ...]

Compares random search without stopping with the sweep as it is (TPE, ASHA, defaults first), by the epochs that they
train; measures how busy the cores are meanwhile, and what a trial takes beyond the training function itself, timed
within it. Searches that are finished are kept. Overrides go to every search. Two nodes, one of them killed, are in
tests/tuning/test_sweep.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
_SWEEP = HERE.parents[1] / "pipelines" / "sweep.py"


def search(name: str, overrides: Sequence[str], work: Path) -> dict[str, Any]:
    """Run a search in a process of its own, unless it is there; returns its trials and what it took.

    ``busy`` is the share of all cores used by this machine from the first trial's start to the last one's end.
    """
    folder = work / name
    kept = folder / "measured.json"
    if not kept.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, str(_SWEEP), *overrides, f"tune.storage={folder}", f"root={work / 'outputs'}"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
            samples: list[tuple[float, float]] = []
            while process.poll() is None:
                samples.append((time.time(), psutil.cpu_percent(interval=1.0)))
        if process.returncode:
            raise SystemExit(f"{name} failed, see {folder / 'log'}")
        (result,) = folder.glob("*/search/*/result.json")
        trials = json.loads(result.read_text())["trials"]
        started, ended = min(t["started"] for t in trials), max(t["order"] for t in trials)
        busy = [percent for moment, percent in samples if started <= moment <= ended]
        kept.write_text(
            json.dumps({"trials": trials, "seconds": ended - started, "busy": statistics.fmean(busy or [0.0])})
        )
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def curve(trials: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Epochs trained so far and the best finished model's score in per cent, after each trial that ended."""
    epochs, best, points = 0, 0.0, []
    for trial in sorted(trials, key=lambda t: t["order"]):
        epochs += trial["epochs"]
        if trial["state"] == "complete":
            best = max(best, 100 * trial["score"])
        points.append((epochs, best))
    return points


def compare(seed: int, trials: int, overrides: Sequence[str], work: Path) -> dict[str, Any]:
    """Random search without stopping against the sweep, with equal epochs for both."""
    common = [*overrides, f"tune.seed={seed}", f"seed={seed}", f"split.seed={seed}"]
    plain = ["tune.sampler=random", "tune.scheduler=null", f"tune.trials={trials}", "tune.time_budget=null"]
    random = search(f"random-{seed}", [*common, *plain], work)
    # More trials than the budget holds, as most are stopped early; what goes beyond it is not counted.
    ours = search(f"sweep-{seed}", [*common, f"tune.trials={2 * trials}", "tune.time_budget=null"], work)
    budget, goal = curve(random["trials"])[-1]
    within = [(epochs, best) for epochs, best in curve(ours["trials"]) if epochs <= budget]
    return {
        "seed": seed,
        "epochs": budget,
        "random": goal,
        "sweep": within[-1][1] if within else None,
        "epochs_to_random": next((epochs for epochs, best in within if best >= goal), None),
        "busy": {"random": random["busy"], "sweep": ours["busy"]},
    }


def overhead(overrides: Sequence[str], work: Path) -> dict[str, float]:
    """Seconds of a trial in a sweep of one at a time, and of the training function within it."""
    alone = ["tune.concurrency=1", "tune.scheduler=null", "tune.sampler=random", "tune.trials=4", "framework=dmt"]
    measured = search("overhead", [*overrides, *alone, "tune.time_budget=null"], work)
    ends = sorted(trial["order"] for trial in measured["trials"])
    # From one end to the next: the first trial also pays for its worker's imports, once a session.
    in_sweep = statistics.fmean(b - a for a, b in pairwise(ends))
    bare = statistics.fmean(trial["seconds"] for trial in measured["trials"][1:])
    return {"trial_s": in_sweep, "bare_s": bare, "overhead_percent": 100 * (in_sweep / bare - 1)}


def main() -> None:
    """Measure, and write results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12, help="of random search (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("outputs/benchmark-sweep"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results (default: beside this script)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    work = options.work.resolve()
    rows = [compare(seed, options.trials, options.overrides, work) for seed in options.seeds]
    cost = overhead(options.overrides, work)
    lines = [
        "| seed | epochs of each | random search | sweep | epochs until random's best | cores busy: random, sweep |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = row["epochs_to_random"]
        share = "not reached" if reached is None else f"{reached} ({reached / row['epochs']:.2f})"
        ours = "" if row["sweep"] is None else f"{row['sweep']:.1f}"
        busy = f"{row['busy']['random']:.0f} %, {row['busy']['sweep']:.0f} %"
        lines.append(f"| {row['seed']} | {row['epochs']} | {row['random']:.1f} | {ours} | {share} | {busy} |")
    lines += [
        "",
        f"A trial takes {cost['trial_s']:.1f} s in the sweep, {cost['bare_s']:.1f} s as a bare training:"
        f" {cost['overhead_percent']:.1f} % on top.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps({"rows": rows, "overhead": cost}, indent=2) + "\n")
    (options.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
