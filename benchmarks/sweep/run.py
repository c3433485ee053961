"""What the sweep is worth, at equal compute, and what it costs.

    python -m benchmarks.sweep.run [--seeds 0 1 2] [--trials 12] [--work FOLDER] [KEY=VALUE ...]

Compares random search without stopping with the sweep as it is (TPE, ASHA, defaults first), by the epochs that they
train and by validation alone; measures who had the cores meanwhile, and what a trial takes beyond the training
function itself, timed within it. Trainings are small (512 clips of the embedded set, 192 steps), about 30 core-minutes
in all. Searches that are finished are kept. Overrides go to every search. Two nodes, one of them killed, are in
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
# 16 steps an epoch; three epochs of warm-up at most, so that the first rung is at a third of a training.
_SIZE = (
    "tune=full",
    "tune.time_budget=null",
    "split.label_ratio=0.25",
    "data.synthetic.n_train=512",
    "data.synthetic.n_validation=300",
    "data.synthetic.n_test=8",
    "data.synthetic.n_offscreen=4",
    "data.synthetic.n_swap=4",
    "data.synthetic.n_small=0",
    "data.synthetic.n_duet=0",
    "data.synthetic.n_unheard=0",
    "data.synthetic.image_size=32",
    "data.synthetic.duration_s=0.5",
    "trainer.batch_size=32",
    "trainer.labeled_batch_size=16",
    "trainer.epochs=12",
    "framework.dmt.warmup_steps=48",
    "framework.xpl.warmup_steps=48",
    "framework.xpl.pacing.length=120",
    "tune.spaces.xpl.pacing.length={kind: int, low: 20, high: 190, step: 10}",
)


def search(name: str, overrides: Sequence[str], work: Path) -> dict[str, Any]:
    """Run a search in its own process, unless its result exists; returns its trials, and who had the cores.

    ``cores`` are shares in per cent, from the first trial's start to the last one's end: of the sweep with all that
    it started, of other work on this machine, of nobody.
    """
    folder = work / name
    kept = folder / "measured.json"
    if not kept.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, str(_SWEEP), *overrides, f"tune.storage={folder}", f"root={work / 'outputs'}"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
            own: dict[int, float] = {}
            samples: list[tuple[float, float, float]] = []
            while process.poll() is None:
                own |= _cpu_seconds(process.pid)
                samples.append((time.time(), sum(own.values()), _idle_seconds()))
                time.sleep(1)
        if process.returncode:
            raise SystemExit(f"{name} failed, see {folder / 'log'}")
        (result,) = folder.glob("*/search/*/result.json")
        trials = json.loads(result.read_text())["trials"]
        started, ended = min(t["started"] for t in trials), max(t["order"] for t in trials)
        within = [sample for sample in samples if started <= sample[0] <= ended]
        wall, used, idle = (last - first for first, last in zip(within[0], within[-1], strict=True))
        shares = {"sweep": used / wall, "idle": idle / wall}
        cores = {who: 100 * share / (psutil.cpu_count() or 1) for who, share in shares.items()}
        cores["others"] = 100 - sum(cores.values())
        kept.write_text(json.dumps({"trials": trials, "seconds": ended - started, "cores": cores}))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _cpu_seconds(pid: int) -> dict[int, float]:
    """Those of a process and of each that it has started, by id."""
    found = {}
    try:
        for process in (top := psutil.Process(pid), *top.children(recursive=True)):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    except psutil.NoSuchProcess:  # it has ended since it was listed
        pass
    return found


def _idle_seconds() -> float:
    """Of all cores, since the machine started."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))


def curve(trials: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any] | None]]:
    """Epochs trained so far and the best finished trial, after each trial that ended."""
    epochs, best, points = 0, None, []
    for trial in sorted(trials, key=lambda t: t["order"]):
        epochs += trial["epochs"]
        if trial["state"] == "complete" and (best is None or trial["score"] > best["score"]):
            best = trial
        points.append((epochs, best))
    return points


def compare(seed: int, trials: int, overrides: Sequence[str], work: Path) -> dict[str, Any]:
    """Random search without stopping against the sweep, with equal epochs for both.

    Every search tries the defaults first; random search's are left out of it, so that it is no more than its name.
    """
    common = [*_SIZE, *overrides, f"seed={seed}", f"split.seed={seed}"]
    plain = ["tune.sampler=random", "tune.scheduler=null", f"tune.trials={trials + 2}", f"tune.seed={seed}"]
    random = search(f"random-{seed}", [*common, *plain], work)
    # More trials than the budget holds, as most are stopped early; what goes beyond it is not counted. Of another seed,
    # as TPE's first proposals are drawn as random search's are and would be the same.
    ours = search(f"sweep-{seed}", [*common, f"tune.trials={2 * trials}", f"tune.seed={seed + 100}"], work)
    budget, goal = curve([trial for trial in random["trials"] if not trial["default"]])[-1]
    within = [(epochs, best) for epochs, best in curve(ours["trials"]) if best and epochs <= budget]
    if goal is None or not within:
        raise SystemExit(f"seed {seed}: a search has no finished trial within {budget} epochs")
    reached = next(((epochs, best) for epochs, best in within if best["score"] >= goal["score"]), None)
    return {
        "seed": seed,
        "epochs": budget,
        "random": 100 * goal["score"],
        "defaults": 100 * max(trial["score"] for trial in ours["trials"] if trial["default"]),
        "sweep": 100 * within[-1][1]["score"],
        "trials": sum(epochs <= budget for epochs, _ in curve(ours["trials"])),
        "epochs_to_random": reached and reached[0],
        "reached_by_defaults": reached and reached[1]["default"],
        "cores": {"random": random["cores"], "sweep": ours["cores"]},
    }


def overhead(overrides: Sequence[str], work: Path) -> dict[str, float]:
    """Seconds of a trial in a sweep of one at a time, and of the training function within it."""
    alone = ["tune.concurrency=1", "tune.scheduler=null", "tune.sampler=random", "tune.trials=6"]
    measured = search("overhead", [*_SIZE, *overrides, *alone], work)
    ended = sorted(measured["trials"], key=lambda trial: trial["order"])
    # From one end to the next: the first trial also pays for its worker's imports, once a session.
    pairs = [(b["order"] - a["order"], b["seconds"]) for a, b in pairwise(ended) if b["state"] == "complete"]
    in_sweep, bare = (statistics.fmean(seconds) for seconds in zip(*pairs, strict=True))
    return {"trial_s": in_sweep, "bare_s": bare, "overhead_s": in_sweep - bare}


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
        "# The sweep against random search without stopping",
        "",
        f"`python -m benchmarks.sweep.run`: {options.trials} random trials a seed; CIoU@0.5 in per cent on validation,"
        f" as trials never open test; {psutil.cpu_count()} cores.",
        "",
        "| seed | epochs of each | random search's best | the defaults' | sweep's best | its trials"
        " | epochs until random's best | reached by | cores: sweep, others, idle |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = row["epochs_to_random"]
        share = "not reached" if reached is None else f"{reached} ({reached / row['epochs']:.2f})"
        who = {None: "", True: "the defaults", False: "a proposal"}[row["reached_by_defaults"]]
        cores = ", ".join(f"{row['cores']['sweep'][part]:.0f} %" for part in ("sweep", "others", "idle"))
        lines.append(
            f"| {row['seed']} | {row['epochs']} | {row['random']:.1f} | {row['defaults']:.1f} | {row['sweep']:.1f}"
            f" | {row['trials']} | {share} | {who} | {cores} |"
        )
    lines += [
        "",
        f"A trial takes {cost['trial_s']:.1f} s in the sweep, {cost['bare_s']:.1f} s as a bare training:"
        f" {cost['overhead_s']:.1f} s on top, {100 * cost['overhead_s'] / 60:.1f} % of a trial of a minute.",
    ]
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps({"rows": rows, "overhead": cost}, indent=2) + "\n")
    (options.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
