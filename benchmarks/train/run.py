"""What a training step costs: ``python -m benchmarks.train.run [--quick]``.

Three tables, printed and written to results.md beside this file unless ``--quick``: the published FNAC step against
this project's on the same work, what each part of a DMT and an XPL step costs, and what was removed from them. Scenes
are generated here; nothing is read but the project. Times are CPU seconds of one thread, so other work on the machine
disturbs them little; what is compared is measured in turns, and ratios are medians of paired repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.train.naive import NaiveFNAC, NaiveTraining
from benchmarks.train.workbench import Training, configure, cpu_seconds, generated, table
from torch import Tensor, nn

import avsl.frameworks.dmt
import avsl.frameworks.xpl
from avsl.data.prepared.reader import PreparedData
from avsl.data.transforms import plain_view
from avsl.files import write_text
from avsl.frameworks.branch import Branch, Teacher, forward_together
from avsl.frameworks.dmt import DMT
from avsl.frameworks.label_memory import LabelMemory
from avsl.frameworks.xpl import XPL
from avsl.functional.ema import ema_update
from avsl.types import AVBatch, SemiBatch, Views

RESULTS = Path(__file__).with_name("results.md")
# What the figures do not say.
NOTES = """\
Nothing is read from a tensor on the way, so that no step waits for a GPU (tested on every framework and objective),
but by XPL once it labels: labels lie on the host's disk, and which clips are admitted is asked of all labels, this
step's among them. What the memory itself takes is the line 'label memory'; on a GPU each such step waits once for the
labelers. Writing later could hide the copy, but a clip's admission needs its new reliability: deferring that would
change results.

Labeled and unlabeled rows go through a student together: one set of batch-norm statistics, of all rows (tested).
The choice is for what it does more than for its few per cent: apart, a few labeled rows would make statistics of
their own.

Left out: `torch.compile` and CUDA graphs, as nothing here could show what they give on a GPU; float16, which needs a
scaled loss where bf16 does not. Precision and memory layout are `trainer.precision` and `trainer.channels_last` in
params.yaml.
"""
# FNAC's published settings, all terms from the first step on.
FNAC = [
    "model=resnet18",
    "framework=self_supervised",
    "objective=fnac",
    "objective.fnac.pooling=max",
    "objective.fnac.temperature=0.03",
    "objective.fnac.fns_audio_weight=100",
    "objective.fnac.tns_weight=100",
    "objective.fnac.fns_image_weight=100",
    "objective.fnac.warmup_steps=0",
    "trainer.batch_size=16",
    "trainer.labeled_batch_size=4",
    "trainer.learning_rate=1e-4",
    "trainer.weight_decay=1e-4",
    "trainer.warmup_share=0",
    "trainer.gradient_clip=0",
]
SIZES: Mapping[str, tuple[int, Sequence[str]]] = {
    "tiny, 64 px, batch 64": (64, ["model=tiny"]),
    "resnet18, 224 px, batch 16": (
        224,
        ["model=resnet18", "trainer.batch_size=16", "trainer.labeled_batch_size=4"],
    ),
}


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps of each: a look, no measurement")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    parts = [_conditions()]
    with tempfile.TemporaryDirectory() as folder:
        frames = {224: generated(Path(folder) / "224", 224, 64, duration_s=3.0)}
        parts.append(measure_fnac(frames[224], repeats=2 if quick else 12))
        parts.append(measure_curves(generated(Path(folder) / "96", 96, 64), epochs=1 if quick else 8))
        frames[64] = generated(Path(folder) / "64", 64, 256)
        for name, (size, overrides) in SIZES.items():
            parts.append(measure_parts(name, frames[size], overrides, steps=2 if quick else 7))
        for name, (size, overrides) in SIZES.items():
            parts.append(measure_removed(name, frames[size], overrides, repeats=2 if quick else 9))
    text = "\n".join([*parts, NOTES])
    print(text)
    if not quick:
        write_text(RESULTS, text)


def _conditions() -> str:
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.is_file() else ""
    bf16 = "with" if "avx512_bf16" in flags or "amx_bf16" in flags else "without"
    load = os.getloadavg()[0]
    return (
        "# One run of `python -m benchmarks.train.run`\n\n"
        f"{os.cpu_count()} cores {bf16} bf16 instructions, one thread, other work beside it (load average {load:.0f}\n"
        "at the start). Times are CPU time; ratios are medians of paired repeats. No GPU was there: nothing here says\n"
        "how fast one is.\n"
    )


# --- FNAC ----------------------------------------------------------------------------------------------------


def measure_fnac(data: PreparedData, repeats: int) -> str:
    """The published step and ours, in turns on the same batches."""
    config = configure(*FNAC)
    ours = Training(config, data)
    published = _published(ours)
    _check_equal(published.model, ours, plain_view(ours.loader.rows(0).labeled))
    pairs, clock = [], []
    for step in range(repeats + 1):
        frames, sounds, batch = _batch(ours, step)
        began = time.perf_counter()
        first = cpu_seconds(partial(published.step, frames, sounds))
        middle = time.perf_counter()
        second = cpu_seconds(partial(ours.step, batch, step))
        pairs.append((first, second))
        clock.append((middle - began) / (time.perf_counter() - middle))
        print(f"step {step} of {repeats}: published {first:.2f} s, ours {second:.2f} s", file=sys.stderr, flush=True)
    # The first step of each pays for what is set up once.
    ratio, wall = statistics.median(a / b for a, b in pairs[1:]), statistics.median(clock[1:])
    rates = [config.trainer.batch_size / statistics.median(side) for side in zip(*pairs[1:], strict=True)]
    heard = "x".join(map(str, sounds.shape[-2:]))
    how = f"{config.trainer.precision}, channels last" if config.trainer.channels_last else config.trainer.precision
    speed = table(
        [f"FNAC step, ResNet-18 pair, {frames.shape[-1]} px, {heard} spectrogram, batch 16", "samples/s", "ratio"],
        [
            ["published: float32, channels first, eager", f"{rates[0]:.1f}", "1.0"],
            [f"ours: {how}", f"{rates[1]:.1f}", f"**{ratio:.2f}** (by the clock {wall:.2f})"],
        ],
    )
    return (
        f"## The published FNAC step against ours\n\n{speed}\n"
        f"{repeats} pairs, without augmentation; in float32 the two give the same loss of the same weights.\n"
    )


def measure_curves(data: PreparedData, epochs: int) -> str:
    """Their losses by epoch, from the same weights on the same batches."""
    ours = Training(configure(*FNAC), data)
    published, again = _published(ours), _published(ours)
    batches = len(data.indices("train")) // ours.config.trainer.batch_size
    losses: dict[str, list[float]] = defaultdict(list)
    for step in range(batches * epochs):
        frames, sounds, batch = _batch(ours, step)
        losses["published"].append(published.step(frames, sounds))
        losses["ours"].append(float(ours.step(batch, step)))
        losses["published, another order"].append(again.step(*_batch(ours, step + 1000 * batches)[:2]))
    curves = {
        name: [statistics.mean(values[k * batches : (k + 1) * batches]) for k in range(epochs)]
        for name, values in losses.items()
    }
    first = curves["published"]
    lines = []
    for name, values in curves.items():
        gap = statistics.mean(abs(a - b) / abs(a) for a, b in zip(first, values, strict=True))
        lines.append([name, *[f"{value:.2f}" for value in values], "" if values is first else f"{100 * gap:.1f} %"])
    curve = table(["mean loss of epoch", *[str(k + 1) for k in range(epochs)], "mean gap to the first"], lines)
    return (
        f"{batches * epochs} steps on {batches * 16} clips at {frames.shape[-1]} px, from the same weights. The third "
        f"curve says what is noise:\nthe published step with the clips in another order.\n\n{curve}"
    )


def _published(ours: Training) -> NaiveTraining:
    """The published training, from our weights."""
    naive = NaiveFNAC()
    naive.take(ours.framework.eval_models()[0])
    return NaiveTraining(naive)


def _batch(training: Training, step: int) -> tuple[Tensor, Tensor, SemiBatch]:
    """Frames and spectrograms of a step, and the same as our step takes them."""
    view = plain_view(training.loader.rows(step).labeled)
    (sounds,) = view.features.values()
    return view.frame, sounds, SemiBatch(Views((view,)))


def _check_equal(naive: NaiveFNAC, ours: Training, view: AVBatch) -> None:
    """Refuse to compare what is not the same work.

    Raises:
        AssertionError: the losses of the first batch differ.
    """
    (sound,) = view.features.values()
    states = [{k: v.clone() for k, v in part.state_dict().items()} for part in (naive, ours.module)]
    with torch.no_grad():
        first, _ = naive(view.frame, sound)
        second = ours.framework.training_step(SemiBatch(Views((view,))), 0).loss.total
    for part, state in zip((naive, ours.module), states, strict=True):
        part.load_state_dict(state)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=0)


# --- Parts of a step -----------------------------------------------------------------------------------------


class Clock:
    """CPU seconds of named parts; of nested ones each has its own alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What the block spends, without the parts in it."""
        began = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            whole = time.process_time() - began
            self.spent[name] += whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as that part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


# What belongs to which part, besides what `measure_parts` calls itself.
_WATCHED: Sequence[tuple[Any, str, str]] = (
    (Teacher, "forward", "labeling: teachers' or peers' forward"),
    (avsl.frameworks.xpl, "predict_in_eval_mode", "labeling: teachers' or peers' forward"),
    (DMT, "label", "labeling: filter, geometry"),
    (XPL, "label", "labeling: filter, geometry"),
    (avsl.frameworks.dmt, "transfer_labels", "labeling: filter, geometry"),
    (avsl.frameworks.xpl, "transfer_labels", "labeling: filter, geometry"),
    (avsl.frameworks.xpl, "admission_threshold", "labeling: filter, geometry"),
    (LabelMemory, "read", "labeling: label memory"),
    (LabelMemory, "write", "labeling: label memory"),
    (Branch, "forward", "students' forward"),
)
_ORDER = (
    "loader",
    "augmentation",
    "labeling: teachers' or peers' forward",
    "labeling: filter, geometry",
    "labeling: label memory",
    "students' forward",
    "losses",
    "backward",
    "clipping, optimizer",
    "EMA",
)


def measure_parts(name: str, data: PreparedData, overrides: Sequence[str], steps: int) -> str:
    """Median CPU time of each part of a step after the warm-up, of DMT and of XPL."""
    columns: dict[str, dict[str, float]] = {}
    for framework in ("dmt", "xpl"):
        training = Training(configure(*overrides, f"framework={framework}", "split.label_ratio=0.1"), data)
        start = 1000
        for step in range(start, start + 2):
            training.whole_step(step)
        found: list[dict[str, float]] = []
        for step in range(start + 2, start + 2 + steps):
            clock = Clock()
            with ExitStack() as stack:
                for owner, attribute, part in _WATCHED:
                    timed = clock.timed(part, getattr(owner, attribute))
                    stack.enter_context(
                        patch.object(owner, attribute, _method(timed) if isinstance(owner, type) else timed)
                    )
                with clock.part("loader"):
                    rows = training.loader.rows(step)
                with clock.part("augmentation"):
                    batch = training.views(rows)
                with clock.part("losses"):
                    loss = training.forward(batch, step).loss.total
                with clock.part("backward"):
                    training.backward(loss)
                with clock.part("clipping, optimizer"):
                    training.update()
                with clock.part("EMA"):
                    training.framework.after_step(step)
            found.append(dict(clock.spent))
        columns[framework] = {part: statistics.median(one.get(part, 0.0) for one in found) for part in _ORDER}
    rows_ = []
    totals = {framework: sum(spent.values()) for framework, spent in columns.items()}
    for part in _ORDER:
        cells = [_share(columns[framework][part], totals[framework]) for framework in columns]
        rows_.append([part, *cells])
    rows_.append(["whole step", *[f"{1e3 * total:.0f} ms" for total in totals.values()]])
    return f"## What a step costs: {name}\n\n{table(['part', 'DMT', 'XPL'], rows_)}"


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def bound(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return bound


def _share(spent: float, total: float) -> str:
    return "-" if spent == 0 else f"{1e3 * spent:.1f} ms ({100 * spent / total:.1f} %)"


# --- What was removed ----------------------------------------------------------------------------------------


def measure_removed(name: str, data: PreparedData, overrides: Sequence[str], repeats: int) -> str:
    """DMT's step with and without what was removed from it, in turns."""
    training = Training(configure(*overrides, "framework=dmt", "split.label_ratio=0.1"), data)
    framework = training.framework
    assert isinstance(framework, DMT)
    batch = training.views(training.loader.rows(0))
    labeled, unlabeled = batch.labeled, batch.unlabeled
    assert unlabeled is not None
    weak = unlabeled.weak
    assert weak is not None
    student, teacher = framework.pairs[0]
    rows = []

    def cast(work: Callable[[], Any]) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return work()

    def with_graph() -> Any:
        teacher.model.requires_grad_(True)
        kept = cast(lambda: teacher(weak))
        teacher.model.requires_grad_(False)
        return kept

    def without() -> Any:
        with torch.no_grad():
            return cast(lambda: teacher(weak))

    ratio, before, after = _paired(with_graph, without, repeats)
    held = _held(with_graph) - _held(without)
    rows.append(
        ["teacher's forward with autograd", "without", before, after, ratio, f"{held / 2**20:.0f} MB of activations"]
    )

    ratio, before, after = _paired(
        lambda: _ema_loop(teacher.model, student.model, 0.95),
        lambda: ema_update(teacher.model, student.model, 0.95),
        repeats,
    )
    count = len(list(student.model.parameters())) + len(list(student.model.buffers()))
    rows.append(
        ["EMA, a loop over parameters and buffers", "`torch._foreach`", before, after, ratio, f"{count} to 2 calls"]
    )

    def two() -> None:
        outputs = cast(lambda: [student(labeled.strong), student(unlabeled.strong)])
        _backward([out.logits for views in outputs for out in views])

    def one() -> None:
        outputs, _, _ = cast(lambda: forward_together(student, batch))
        _backward([out.logits for out in outputs])

    ratio, before, after = _paired(two, one, repeats)
    rows.append(
        ["labeled and unlabeled in two passes", "one", before, after, ratio, "one set of batch-norm statistics"]
    )
    return f"## What was removed: {name}\n\n" + table(
        ["before", "now", "before, ms", "now, ms", "ratio", "besides"], rows
    )


def _paired(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[str, str, str]:
    """Median ratio of the two in turns, and their median milliseconds."""
    first(), second()
    pairs = [(cpu_seconds(first), cpu_seconds(second)) for _ in range(repeats)]
    one, other = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
    return f"{statistics.median(a / b for a, b in pairs):.2f}", f"{one:.1f}", f"{other:.1f}"


def _held(work: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for a backward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()
    del kept
    return sum(seen.values())


@torch.no_grad()
def _ema_loop(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.copy_(decay * mine + (1 - decay) * theirs)
    for kept, new in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(new)


def _backward(outputs: Sequence[Tensor]) -> None:
    loss = torch.stack([out.square().mean() for out in outputs]).sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own


if __name__ == "__main__":
    main()
