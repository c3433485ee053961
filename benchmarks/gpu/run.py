"""What a GPU gives: ``python -m benchmarks.gpu.run [--device cuda] [--minutes 8] [--output FILE] [--quick]``.

One command for a machine that is lent for minutes: the tests marked ``gpu``, then FNAC's published step, a DMT and an
XPL step at 224 px and batch 256: in float32, with bf16, channels last and torch.compile, each alone and all together.
It reads nothing but the project and the environment of ``make setup``, which must lie on that machine; it needs no
network, starts nothing new once time is up (what was left out is listed), and writes one page, ``results.md`` beside
this file. ``--device cpu --quick`` runs all of it on tiny sizes, which measures nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks.train.run import FNAC
from benchmarks.train.workbench import ROOT, Training, configure, generated, table
from torch.utils.flop_counter import FlopCounterMode

from avsl.data.prepared.reader import PreparedData
from avsl.files import write_text
from avsl.models import Localizer

# Dense peak of an H100 SXM or H200 in FLOP/s: NVIDIA's data sheets. Float32 is computed without tensor cores here.
_PEAK = {"32-true": 67e12, "bf16-mixed": 989e12}
# A step after every warm-up.
_LATE = 10**6
CELLS: Mapping[str, Sequence[str]] = {
    "FNAC, as published": FNAC,
    "DMT": ["framework=dmt", "split.label_ratio=0.1"],
    "XPL": ["framework=xpl", "split.label_ratio=0.1"],
}


@dataclass(frozen=True)
class Way:
    """A way to compute the same step."""

    name: str
    precision: str = "32-true"
    channels_last: bool = False
    compiled: bool = False


# Compilation takes longest, so it comes last.
WAYS = (
    Way("float32, eager"),
    Way("bf16", precision="bf16-mixed"),
    Way("channels last", channels_last=True),
    Way("bf16, channels last", precision="bf16-mixed", channels_last=True),
    Way("all together", precision="bf16-mixed", channels_last=True, compiled=True),
    Way("compiled", compiled=True),
)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    model: str
    side: int
    clips: int
    batch: int
    labeled: int
    steps: int
    backend: str
    tests: str


FULL = Scale("resnet18", 224, 1024, 256, 64, 8, "inductor", "")
# Without inductor, which needs minutes of one core: the graphs are captured and run as they are.
QUICK = Scale("tiny", 32, 24, 8, 4, 1, "eager", "dmt and ezvsl")


def main() -> int:
    """Run the tests and measure; the exit code is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=8.0, help="to end in (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.md"), metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all of it runs")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch {torch.__version__} finds no GPU here")
    scale, until = (QUICK if options.quick else FULL), time.monotonic() + 60 * options.minutes
    passed, summary = _run_tests(options.device, scale, timeout=30 * options.minutes)
    parts = [_conditions(options.device, options.quick), f"## Tests marked `gpu`\n\n{summary}\n"]
    # Scoped, as a process that compares with the CPU needs: the published step is float32, not TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        data = generated(Path(folder) / "scenes", scale.side, scale.clips)
        for name, overrides in CELLS.items():
            parts.append(_measure(name, overrides, data, scale, options.device, until, left_out))
            write_text(options.output, "\n".join([*parts, "This run has not ended.\n"]))
    write_text(options.output, "\n".join([*parts, _ending(left_out)]))
    print(options.output.read_text())
    return 0 if passed else 1


def _conditions(device: str, quick: bool) -> str:
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"the CPU ({device})"
    warning = "**A dry run on tiny sizes: its figures say nothing.**\n\n" if quick else ""
    return (
        f"# One run of `python -m benchmarks.gpu.run` on {where}\n\n{warning}"
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} cores. Times are medians of\n"
        "steps, the device awaited after each. MFU is the step's floating-point operations, counted in PyTorch's\n"
        "operators, over its time and the dense peak of the precision on a Hopper GPU (67 TFLOP/s float32, 989 bf16).\n"
        "Busy is a step's time without reading and augmentation as a share of its time with them.\n"
    )


def _ending(left_out: Sequence[str]) -> str:
    return f"Left out, as time was up: {', '.join(left_out)}.\n" if left_out else "Nothing was left out.\n"


def _run_tests(device: str, scale: Scale, timeout: float) -> tuple[bool, str]:
    """Whether the tests marked ``gpu`` pass, and pytest's last line."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-k",
        scale.tests,
        "tests/contract/test_frameworks.py",
    ]
    environment = os.environ | {"AVSL_TEST_DEVICE": device}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False, f"not finished in {timeout:.0f} s"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["pytest printed nothing"]
    failed = [f"- {line}" for line in lines if line.startswith("FAILED")]
    return done.returncode == 0, "\n".join([lines[-1].strip("= "), "", *failed])


def _measure(
    name: str,
    overrides: Sequence[str],
    data: PreparedData,
    scale: Scale,
    device: str,
    until: float,
    left_out: list[str],
) -> str:
    rows: list[list[str]] = []
    base = 0.0
    for way in WAYS:
        if time.monotonic() > until:
            left_out.append(f"{name} {way.name}")
            continue
        training = _training(overrides, data, scale, device, way)
        batch = training.views(training.loader.rows(_LATE))
        with FlopCounterMode(display=False) as counter:
            training.step(batch, _LATE)
        if way.compiled:
            for part in training.module.modules():
                if isinstance(part, Localizer):
                    part.image.compile(backend=scale.backend)
                    part.audio.compile(backend=scale.backend)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        took = _seconds(partial(training.step, batch), scale.steps, device)
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device.startswith("cuda") else "-"
        whole = _seconds(training.whole_step, scale.steps, device)
        base = base or took
        used = counter.get_total_flops() / took / _PEAK[way.precision]
        speed = (f"{1e3 * took:.1f}", f"{scale.batch / took:.0f}", f"{base / took:.2f}", f"{100 * used:.2g} %")
        rows.append([way.name, *speed, peak, f"{100 * min(1.0, took / whole):.0f} %"])
        print(f"{name}, {way.name}: {1e3 * took:.0f} ms", file=sys.stderr, flush=True)
    heads = ["", "ms a step", "clips/s", "speed-up", "MFU", "peak memory, GiB", "busy"]
    return f"## {name}: {scale.model}, {scale.side} px, batch {scale.batch}\n\n{table(heads, rows)}"


def _training(overrides: Sequence[str], data: PreparedData, scale: Scale, device: str, way: Way) -> Training:
    sizes = [f"model={scale.model}", f"trainer.batch_size={scale.batch}", f"trainer.labeled_batch_size={scale.labeled}"]
    how = [f"trainer.precision={way.precision}", f"trainer.channels_last={str(way.channels_last).lower()}"]
    return Training(configure(*overrides, *sizes, *how), data, device)


def _seconds(work: Callable[[int], object], steps: int, device: str) -> float:
    """Median seconds of ``work`` on late steps after two warm-ups, the device awaited after each."""
    times = []
    for step in range(_LATE, _LATE + steps + 2):
        begun = time.perf_counter()
        work(step)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


if __name__ == "__main__":
    sys.exit(main())
