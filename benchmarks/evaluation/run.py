"""Evaluation: time against the per-sample NumPy way, with equal results, and memory over the number of rows.

    python benchmarks/evaluation/run.py [--quick]

Maps are 7 × 7 noise, boxes are drawn by lot, frames have 224 px: the numbers of VGG-SS. One thread each, CPU time, as
other work disturbs it little; repeats of the two ways alternate and medians are compared. Writes results.md beside this
file unless ``--quick``.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as nn

from avsl.data.loading import RowReader
from avsl.data.prepared.format import Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest
from avsl.evaluation.maps import Maps
from avsl.evaluation.scoring import score_part
from avsl.files import write_text
from avsl.functional import localization as F

Floats = NDArray[np.float32]
SIDE, CELLS, THRESHOLD = 224, 7, 0.55
SHARD_ROWS = 500


class BoxedRows:
    """Makes shards of black frames with one box each, drawn by lot."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        rng = np.random.default_rng(k)
        frame, sound = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros(16, np.int16)
        start = rng.uniform(0, 0.6, (SHARD_ROWS, 2))
        boxes = np.concatenate([start, start + rng.uniform(0.15, 0.4, (SHARD_ROWS, 2))], axis=1).astype(np.float32)
        names = [f"r{k * SHARD_ROWS + j}" for j in range(SHARD_ROWS)]
        return ShardRows([Sample(n, n, n, "test", "", frame, sound, boxes[j : j + 1]) for j, n in enumerate(names)])


def make_data(folder: Path, rows: int) -> None:
    """Prepare ``rows`` rows, a multiple of a shard's."""
    manifest, _ = prepare_shards(
        folder,
        BoxedRows(),
        rows // SHARD_ROWS,
        name="boxes",
        image_size=SIDE,
        sample_rate=16000,
        n_samples_audio=16,
        classes=[],
        settings={},
        workers=1,
        frames="jpeg",
    )
    write_manifest(folder, manifest)


def make_maps(folder: Path) -> Maps:
    """Noise for every row, and other noise as if it had heard another sound."""
    data = PreparedData.open(folder)
    rows = np.arange(len(data))
    heard, shuffled = torch.rand(2, len(data), CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    return Maps(rows, [heard], [shuffled], RowReader(data, [], rows))


# --- The per-sample NumPy way ----------------------------------------------------------------------------------


def bicubic(cells: Floats) -> Floats:
    """One map as EZ-VSL's and FNAC's test code enlarges it."""
    enlarged = nn.interpolate(torch.from_numpy(cells)[None, None], (SIDE, SIDE), mode="bicubic", align_corners=False)
    found: Floats = enlarged[0, 0].numpy()
    return found


def bilinear(cells: Floats) -> Floats:
    """One map as OpenCV's INTER_LINEAR enlarges it, which SSPL's test code uses."""
    position = np.clip((np.arange(SIDE) + 0.5) * CELLS / SIDE - 0.5, 0, CELLS - 1)
    left = position.astype(int)
    right, step = np.minimum(left + 1, CELLS - 1), position - left
    rows: Floats = (cells[:, left] + (cells[:, right] - cells[:, left]) * step).astype(np.float32)
    found: Floats = (rows[left] + (rows[right] - rows[left]) * step[:, None]).astype(np.float32)
    return found


def stretch(image: Floats) -> Floats:
    """Min-max."""
    found: Floats = (image - image.min()) / (image.max() - image.min())
    return found


def draw(boxes: Floats) -> Floats:
    """One row's truth."""
    truth = np.zeros((SIDE, SIDE), np.float32)
    for x0, y0, x1, y1 in (boxes.astype(np.float64) * SIDE + 1e-4).astype(int):
        truth[y0:y1, x0:x1] = 1
    return truth


def one_ciou(infer: NDArray[np.bool_], truth: Floats) -> float:
    """One row's cIoU as the published evaluators compute it."""
    mask = np.zeros((SIDE, SIDE))
    mask[infer] = 1
    return float(np.sum(mask * truth) / (np.sum(truth) + np.sum(mask * (truth == 0))))


def summarize(scores: Sequence[float]) -> dict[str, float]:
    """CIoU@0.5, AUC and mean."""
    thresholds = [0.05 * k for k in range(21)]
    rates = [float(np.mean(np.array(scores) >= at)) for at in thresholds]
    return {
        "ciou": rates[10],
        "auc": float(np.trapezoid(rates, thresholds)),
        "mean_ciou": float(np.mean(scores)),
    }


def median_by_numpy(maps: Maps) -> dict[str, float]:
    """The median convention, row by row."""
    scores = []
    for row, cells in enumerate(maps.members[0].numpy()):
        boxes = maps.reader.data.boxes(row)
        assert boxes is not None
        image = stretch(bicubic(cells))
        scores.append(one_ciou(image >= np.sort(image.flatten())[SIDE * SIDE // 2], draw(boxes)))
    return summarize(scores)


def all_by_numpy(maps: Maps) -> dict[str, float]:
    """Every figure of a test part, row by row, each convention alone, as each has its own published code."""
    assert maps.shuffled is not None
    names = ("", "_median", "_oracle", "_shuffled")
    scores: dict[str, list[float]] = {name: [] for name in names}
    for row, (cells, other) in enumerate(zip(maps.members[0].numpy(), maps.shuffled[0].numpy(), strict=True)):
        boxes = maps.reader.data.boxes(row)
        assert boxes is not None
        truth = draw(boxes)
        limit = np.float32(THRESHOLD)
        scores[""].append(one_ciou(bilinear(cells) >= limit, truth))
        image = stretch(bicubic(cells))
        scores["_median"].append(one_ciou(image >= np.sort(image.flatten())[SIDE * SIDE // 2], truth))
        image = stretch(bicubic(cells))
        scores["_oracle"].append(one_ciou(image > np.sort(image.flatten())[-int(truth.sum())], truth))
        scores["_shuffled"].append(one_ciou(bilinear(other) >= limit, truth))
    found = {name + suffix: v for suffix in names for name, v in summarize(scores[suffix]).items()}
    return {name: v for name, v in found.items() if name not in ("auc_shuffled", "mean_ciou_shuffled")}


# --- The product's way -----------------------------------------------------------------------------------------


def median_by_product(maps: Maps) -> dict[str, float]:
    """The median convention, a few rows at a time."""
    ciou = [F.ciou(F.predict_mask(chunk.confidence, chunk.truth, "median"), chunk.truth) for chunk in maps.chunks()]
    found = F.summarize(torch.cat(ciou))
    return {name: float(found[name]) for name in ("ciou", "auc", "mean_ciou")}


def all_by_product(maps: Maps) -> dict[str, float]:
    """Every figure of a test part."""
    return score_part("test", maps, THRESHOLD).figures


Way = Callable[[Maps], dict[str, float]]
WAYS: dict[str, tuple[Way, Way]] = {
    "median convention alone": (median_by_numpy, median_by_product),
    "all figures of a test part": (all_by_numpy, all_by_product),
}


def compare(maps: Maps, repeats: int) -> list[str]:
    """A line for each of `WAYS`: maps/s of both, and how far their figures lie apart."""
    lines = [
        "| what is scored | NumPy, maps/s | avsl, maps/s | times | figures differ by at most |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, ways in WAYS.items():
        seconds: tuple[list[float], list[float]] = [], []
        found: list[dict[str, float]] = [{}, {}]
        for _ in range(repeats):
            for k, way in enumerate(ways):
                started = time.process_time()
                found[k] = way(maps)
                seconds[k].append(time.process_time() - started)
        apart = max(abs(value - found[1][key]) for key, value in found[0].items())
        rates = [len(maps.rows) / statistics.median(s) for s in seconds]
        times = statistics.median(slow / fast for slow, fast in zip(*seconds, strict=True))
        lines.append(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {times:.1f} | {apart:.0e} |")
    return lines


def measure_memory(folder: Path) -> None:
    """Print the memory in MB that scoring a prepared set adds to what the process had before, and the CPU seconds."""
    maps = make_maps(folder)
    score_part("test", Maps(maps.rows[:SHARD_ROWS], [maps.members[0][:SHARD_ROWS]], None, maps.reader), THRESHOLD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    score_part("test", maps, THRESHOLD)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{before / 1024:.0f} {added:.0f} {time.process_time() - started:.0f}")


def tabulate_memory(counts: Sequence[int]) -> list[str]:
    """A line for each number of rows, each measured in its own process."""
    lines = ["| rows | process after the first 500, MB | added by all, MB | CPU seconds |", "| --- | --- | --- | --- |"]
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            make_data(Path(folder), count)
            command = [sys.executable, __file__, "--memory", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        before, added, seconds = done.stdout.split()
        lines.append(f"| {count:,} | {before} | {added} | {seconds} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, nothing written")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.memory:
        measure_memory(asked.memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), SHARD_ROWS)
        lines = compare(make_maps(Path(folder)), 1 if asked.quick else 9)
    lines += ["", *tabulate_memory([1000] if asked.quick else [1000, 10_000, 100_000])]
    print("\n".join(lines))
    if not asked.quick:
        write_text(Path(__file__).with_name("results.md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
