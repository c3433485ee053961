"""Preparing, loading and memory, measured: ``python -m benchmarks.data.run [--quick] [--only memory]``.

Everything is made here; nothing is read but the project. Times are CPU seconds of one thread, so other work on the
machine disturbs them little; medians of repeats, and what is compared is measured in turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from benchmarks.data.media import SECONDS, write_clip, write_pair
from benchmarks.data.naive import NaiveDataset
from benchmarks.memory import Peak
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from avsl.data.datasets.folder import FolderConfig
from avsl.data.datasets.folder import read_index as list_folder
from avsl.data.datasets.vggss import VGGSSConfig
from avsl.data.datasets.vggss import read_index as list_vggss
from avsl.data.index import Index, IndexedConfig
from avsl.data.listing import Media
from avsl.data.loading import RowReader, Rows, StepLoader
from avsl.data.media.audio import read_audio
from avsl.data.media.image import resize_frame
from avsl.data.media.video import read_frame
from avsl.data.prepared.format import FrameFormat, Sample
from avsl.data.prepared.preparation import prepare_index
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import write_shard
from avsl.data.transforms import AugmentConfig, strong_view, weak_view
from avsl.files import file_hash
from avsl.models.front_ends import LogMel, LogMelConfig, LogSpectrogram, LogSpectrogramConfig

SIZE, DURATION, BATCH = 224, 3.0, 64
_console = Console(width=120)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer clips and rows: a look, no measurement")
    parser.add_argument("--only", choices=("prepare", "loading", "memory"), help="one of the three")
    asked = parser.parse_args()
    quick = asked.quick
    torch.set_num_threads(1)
    if asked.only in (None, "prepare"):
        with tempfile.TemporaryDirectory() as folder:
            measure_prepare(Path(folder), clips=4 if quick else 40)
    if asked.only in (None, "loading"):
        with tempfile.TemporaryDirectory() as folder:
            measure_loading(Path(folder), rows=128 if quick else 512, repeats=3 if quick else 15)
    if asked.only in (None, "memory"):
        measure_memory([300, 1000] if quick else [1000, 10_000, 100_000])


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of ``work``."""
    start = time.process_time()
    work()
    return time.process_time() - start


# --- Prepare -------------------------------------------------------------------------------------------------


def measure_prepare(root: Path, clips: int) -> None:
    """Clips per second and core from 10 s of 320x240 mp4, and what the time is spent on."""
    source = root / "clips"
    source.mkdir()
    for k in range(clips):
        write_clip(source / f"clip{k:04d}.mp4", k)
    paths = sorted(source.iterdir())
    config = FolderConfig(root=str(source), image_size=SIZE, duration_s=DURATION)
    spent = [_cpu(partial(prepare_index, "clips", list_folder, config, root / name, 1)) for name in ("first", "second")]
    whole = spent[1] / clips  # the first paid for imports

    frame = read_frame(paths[0], None)
    middle = (SECONDS - DURATION) / 2
    sample = Sample(
        "s", "s", "s", "train", "", resize_frame(frame, SIZE), np.zeros(round(DURATION * 16000), np.int16), None
    )

    def write() -> None:
        write_shard(root / "shard.arrow", [sample] * 64)
        file_hash(root / "shard.arrow")

    parts: dict[str, Callable[[Path], object]] = {
        "open the file": _open,
        "frame: open, seek, decode to the middle, to RGB": lambda path: read_frame(path, None),
        "resize": lambda _: resize_frame(frame, SIZE),
        "sound: open, seek, decode 3 s, at 44.1 kHz": lambda path: read_audio(path, middle, DURATION, 44100),
        "sound: the same, resampled to 16 kHz": lambda path: read_audio(path, middle, DURATION, 16000),
    }
    table = Table("part", "ms a clip", title=f"Prepare: {clips} clips of 10 s, 320x240, H.264 + AAC, one core")
    for name, part in parts.items():
        part(paths[0])
        table.add_row(name, f"{1e3 * statistics.median(_cpu(partial(part, path)) for path in paths):.1f}")
    table.add_row("write and hash", f"{1e3 * statistics.median(_cpu(write) for _ in range(5)) / 64:.2f}")
    table.add_row("all of prepare", f"{1e3 * whole:.1f}")
    _console.print(table, f"prepare: {1 / whole:.1f} clips/s per core\n")


def _open(path: Path) -> None:
    with av.open(str(path)):
        pass


# --- Loading -------------------------------------------------------------------------------------------------


class _Steps(Dataset[Rows]):
    """The rows of each step, for a worker process to read."""

    def __init__(self, loader: StepLoader, steps: int) -> None:
        self._loader = loader
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Rows:
        return self._loader.rows(step).labeled


def measure_loading(root: Path, rows: int, repeats: int) -> None:
    """Items per second and core in training: the published way, ours with JPEG frames and with raw ones."""
    source = root / "vggss"
    for k in range(rows):
        write_pair(source, f"clip{k:07d}_000010", k)
    boxes = [{"file": f"clip{k:07d}_000010", "class": "c", "bbox": [[0.25, 0.25, 0.75, 0.75]]} for k in range(rows)]
    (source / "vggss.json").write_text(json.dumps(boxes))
    front_end = LogSpectrogram(LogSpectrogramConfig())
    augment = AugmentConfig()
    naive = NaiveDataset(source, SIZE, DURATION)
    order = np.random.default_rng(0)
    loaders = {kind: _loader(root, source, kind, front_end) for kind in ("jpeg", "raw")}
    generator = torch.Generator().manual_seed(0)
    step = 0

    def published() -> None:
        items = [naive[int(k)] for k in order.permutation(rows)[:BATCH]]
        torch.stack([frame for frame, _ in items])
        torch.stack([heard for _, heard in items])

    def ours(kind: str, view: Callable[..., object] | None) -> Callable[[], None]:
        def work() -> None:
            nonlocal step
            step += 1
            read = loaders[kind].rows(step).labeled
            if view is not None:
                view(read, augment, generator)

        return work

    base = "published: JPEG by PIL, whole WAV, SciPy spectrogram; crop, flip"
    ways: Mapping[str, Callable[[], None]] = {
        base: published,
        "JPEG frames; crop, flip": ours("jpeg", weak_view),
        "raw frames; crop, flip": ours("raw", weak_view),
        "JPEG frames; crop, flip, color, noise, SpecAugment": ours("jpeg", strong_view),
        "raw frames; crop, flip, color, noise, SpecAugment": ours("raw", strong_view),
        "JPEG frames, as bytes for a GPU to augment": ours("jpeg", None),
        "raw frames, as bytes for a GPU to augment": ours("raw", None),
    }
    for work in ways.values():
        work()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            spent[name].append(_cpu(work) / BATCH)
    table = Table("loading for training", "items/s per core", "ratio", title=f"{SIZE} px, batches of {BATCH}")
    for name, times in spent.items():
        ratio = statistics.median(b / t for b, t in zip(spent[base], times, strict=True))
        table.add_row(name, f"{1 / statistics.median(times):,.0f}", f"{ratio:.1f}")
    _console.print(table)
    sounds = torch.from_numpy(PreparedData.open(root / "raw").waveforms(np.arange(50)))
    once = statistics.median(_cpu(partial(front_end, sound)) for sound in sounds[:, None])
    _console.print(f"Log-spectrograms are computed once, before the first step: {1e3 * once:.2f} ms a clip.")
    _measure_workers(loaders, repeats)


def _measure_workers(loaders: Mapping[str, StepLoader], repeats: int) -> None:
    """Wall time of a step's bytes, read by the training process itself and handed over by a worker process."""
    table = Table("bytes for a GPU to augment, items/s of wall time", "in the process", "from one worker")
    for kind, loader in loaders.items():
        steps = range(4 * repeats)
        start = time.perf_counter()
        for step in steps:
            loader.rows(step)
        own = time.perf_counter() - start
        worker = iter(DataLoader(_Steps(loader, len(steps) + 4), batch_size=None, num_workers=1))
        for _ in range(4):  # the worker has started
            next(worker)
        start = time.perf_counter()
        for _ in steps:
            next(worker)
        other = time.perf_counter() - start
        items = len(steps) * BATCH
        table.add_row(f"{kind} frames", f"{items / own:,.0f}", f"{items / other:,.0f}")
    _console.print(table)


def _loader(root: Path, source: Path, kind: FrameFormat, front_end: LogSpectrogram) -> StepLoader:
    """Prepares the folder with one kind of frames; its training loader."""
    config = VGGSSConfig(root=str(source), image_size=SIZE, duration_s=DURATION, test_share=0, frames=kind)
    prepare_index("vggss", list_vggss, config, root / kind, 1)
    data = PreparedData.open(root / kind)
    rows = data.indices("train")
    return StepLoader(
        RowReader(data, [front_end], rows),
        rows,
        rows[:0],
        batch_size=BATCH,
        labeled_batch_size=BATCH // 2,
        steps_per_epoch=20,
        seed=0,
        masks=False,
        hidden=False,
    )


# --- Memory --------------------------------------------------------------------------------------------------


def _memory(rows: int) -> tuple[float, float, float, float]:
    """MB held at the start, in preparing and in reading an epoch with its features; MB of the set on disk."""
    torch.set_num_threads(1)
    front_end = LogMel(LogMelConfig(n_mels=16))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind in ("frames", "audio"):
            (root / kind).mkdir()
        for k in range(rows):
            picture, sound = root / "frames" / f"row{k:07d}.png", root / "audio" / f"row{k:07d}.wav"
            if k < 20:
                Image.fromarray(np.full((64, 64, 3), k, np.uint8)).save(picture)
                soundfile.write(sound, 0.1 + np.zeros(4000), 16000)
            else:  # a few files under many names: what is held of them does not depend on that
                os.link(picture.with_stem(f"row{k % 20:07d}"), picture)
                os.link(sound.with_stem(f"row{k % 20:07d}"), sound)
        config = IndexedConfig(root=folder, image_size=64, duration_s=0.25)
        with Peak() as start:
            front_end(torch.zeros(1, 4000))
        with Peak() as preparing:
            manifest = prepare_index("rows", lambda _: Index(Media.read(root).pool(())), config, root / "prepared", 1)
        with Peak() as training:
            data = PreparedData.open(root / "prepared")
            index = data.indices("train")
            loader = StepLoader(
                RowReader(data, [front_end], index),
                index,
                index[:0],
                batch_size=BATCH,
                labeled_batch_size=BATCH // 2,
                steps_per_epoch=1,
                seed=0,
                masks=False,
                hidden=False,
            )
            for step in range(-(-rows // BATCH)):
                loader.rows(step)
        disk = sum(shard.bytes for shard in manifest.shards) / 2**20
    return start.mb, preparing.mb, training.mb, disk


def measure_memory(sizes: Sequence[int]) -> None:
    """Memory of preparing and of an epoch's reading, at several numbers of rows."""
    table = Table("rows", "on disk, MB", "at the start, MB", "preparing, MB", "reading an epoch, MB", title="Memory")
    context = multiprocessing.get_context("spawn")
    for rows in sizes:
        with context.Pool(1) as pool:
            start, preparing, training, disk = pool.apply(_memory, (rows,))
        table.add_row(f"{rows:,}", f"{disk:,.0f}", f"{start:,.0f}", f"{preparing:,.0f}", f"{training:,.0f}")
    _console.print(table)


if __name__ == "__main__":
    main()
