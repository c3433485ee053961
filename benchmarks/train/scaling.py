"""How a training step's cost grows: ``python -m benchmarks.train.scaling [--quick]``.

DMT's step with the tiny model against the frames' size, the batch and the number of samples: CPU seconds of one thread
and the memory that a process holds at most, each with the exponent of its curve (the slope in a log-log plot). Shards
are generated here. Writes scaling.md and scaling.png beside this file unless ``--quick``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import matplotlib
import numpy as np
import torch
from benchmarks.memory import Peak, held
from benchmarks.train.workbench import Training, configure, cpu_seconds, table

from avsl.data.prepared.format import Manifest, Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest
from avsl.files import whole_file, write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RATE, SHARD = 16000, 500
AFTER_WARM_UP = 10**6
HERE = Path(__file__).parent


@dataclass(frozen=True)
class NoiseRows:
    """Makes shards of noise with a box each, all rows annotated."""

    size: int
    length: int
    rows: int

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k; few different ones, as what they show does not decide what they cost."""
        rng = np.random.default_rng(k)
        frames = rng.integers(0, 256, (8, self.size, self.size, 3), np.uint8)
        sounds = rng.integers(-9000, 9000, (8, self.length), np.int16)
        box = np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)

        def row(i: int) -> Sample:
            name = f"row{i:07d}"
            return Sample(name, name, name, "train", f"c{i % 8}", frames[i % 8], sounds[i % 8], box)

        return ShardRows([row(i) for i in range(k * SHARD, min(self.rows, (k + 1) * SHARD))])


def prepare(root: Path, size: int, length: int, rows: int) -> Manifest:
    """A prepared set of noise."""
    manifest, _ = prepare_shards(
        root,
        NoiseRows(size, length, rows),
        -(-rows // SHARD),
        name="noise",
        image_size=size,
        sample_rate=RATE,
        n_samples_audio=length,
        classes=[f"c{k}" for k in range(8)],
        settings={},
        workers=1,
    )
    write_manifest(root, manifest)
    return manifest


@dataclass(frozen=True)
class Cost:
    """What a training needs.

    Attributes:
        start: CPU s until the first step: opening, split, cached spectrograms, networks.
        step: CPU s of a step, the median.
        memory: MB that the process holds at most beyond what it held before.
    """

    start: float
    step: float
    memory: float


def measure(root: Path, batch: int, steps: int) -> Cost:
    """Measure the cost of a training on a prepared set, in its own process."""
    receive, send = multiprocessing.Pipe(duplex=False)
    # Forked, as importing everything again would take longer than what is measured.
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(root, batch, steps, send))
    process.start()
    send.close()
    cost: Cost = receive.recv()
    process.join()
    return cost


def _measure(root: Path, batch: int, steps: int, send: Connection) -> None:
    torch.set_num_threads(1)
    trainings = []

    def start() -> None:
        config = configure(
            "framework=dmt",
            "model=tiny",
            "split.label_ratio=0.1",
            f"trainer.batch_size={batch}",
            f"trainer.labeled_batch_size={batch // 4}",
        )
        trainings.append(Training(config, PreparedData.open(root)))

    before = held()
    with Peak() as peak:
        began = cpu_seconds(start)
        (training,) = trainings
        training.whole_step(AFTER_WARM_UP)
        spent = [cpu_seconds(partial(training.whole_step, AFTER_WARM_UP + k)) for k in range(1, 1 + steps)]
    send.send(Cost(began, statistics.median(spent), peak.mb - before))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(value) over log(size), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Measure the three curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two points of each curve: a look, no measurement")
    quick = parser.parse_args().quick
    steps = 1 if quick else 5
    sides, batches = ([64, 128], [16, 32]) if quick else ([64, 96, 128, 160, 224], [8, 16, 32, 64, 128])
    rows = [1000, 2000] if quick else [1000, 10_000, 50_000, 200_000]
    curves: dict[str, dict[int, Cost]] = {"frame's side, px": {}, "batch": {}, "samples": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for side in sides:
            prepare(root / f"{side}px", side, RATE, 200)
            curves["frame's side, px"][side] = measure(root / f"{side}px", 16, steps)
        for batch in batches:
            curves["batch"][batch] = measure(root / f"{sides[0]}px", batch, steps)
        whole = prepare(root / "rows", 32, RATE // 8, max(rows))
        for count in rows:
            # The first shards of the largest set are the smaller ones.
            part = root / f"{count}rows"
            part.mkdir()
            shards = whole.shards[: -(-count // SHARD)]
            for shard in shards:
                (part / shard.file).symlink_to(root / "rows" / shard.file)
            write_manifest(part, whole.model_copy(update={"shards": shards, "counts": {"train": count}}))
            curves["samples"][count] = measure(part, 16, steps)
    text = _report(curves)
    print(text)
    if not quick:
        write_text(HERE / "scaling.md", text)
        _draw(curves, HERE / "scaling.png")


_KEYS = {"step": "CPU s of a step", "memory": "memory, MB", "start": "CPU s until the first step"}


def _report(curves: dict[str, dict[int, Cost]]) -> str:
    parts = [
        "# One run of `python -m benchmarks.train.scaling`\n\n"
        "DMT with the tiny model, one thread, other work beside it. Frames of 64 px and a batch of 16 where they are\n"
        "not what varies; samples: 32 px, 1/8 s of sound. Memory is what a process holds at most beyond its imports;\n"
        "mapped files do not count.\n"
    ]
    for axis, points in curves.items():
        lines = [[f"{size:,}", *[f"{getattr(cost, key):.3g}" for key in _KEYS]] for size, cost in points.items()]
        slopes = [exponent(list(points), [getattr(cost, key) for cost in points.values()]) for key in _KEYS]
        lines.append(["**exponent**", *[f"**{slope:.2f}**" for slope in slopes]])
        parts.append(table([axis, *_KEYS.values()], lines))
    return "\n".join([*parts, "![cost as work grows](scaling.png)\n"])


def _draw(curves: dict[str, dict[int, Cost]], target: Path) -> None:
    figure, axes = plt.subplots(1, len(curves), figsize=(10, 3.2), layout="constrained")
    for panel, (axis, points) in zip(axes, curves.items(), strict=True):
        for key, label in _KEYS.items():
            values = [getattr(cost, key) for cost in points.values()]
            panel.loglog(list(points), values, "o-", label=f"{label}: {exponent(list(points), values):.2f}")
        panel.set_xlabel(axis)
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    with whole_file(target) as part:
        figure.savefig(part, format="png", dpi=90)


if __name__ == "__main__":
    main()
