"""Time exported models beside PyTorch: ``python -m benchmarks.serving.exported [--repeats N]``.

Two averaged ``tiny`` networks at 64 px and one ``resnet18`` at 224 px, random weights, as `avsl export` writes them.
The three ways take turns on the same clips in one thread; times are CPU time, which other work on the machine disturbs
little, and ratios are medians of paired repeats.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from benchmarks.train.workbench import configure, cpu_seconds, table

from avsl.inference.export import export_model
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, load_exported, save_exported

# Preset of the model, averaged networks, frame side in px.
_MODELS = (("tiny", 2, 64), ("resnet18", 1, 224))
_BATCHES = (1, 8)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="pairs for each row (default: %(default)s)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = [row for name, members, side in _MODELS for row in _measure(name, members, side, repeats)]
    print(table(["model", "clips", "eager, ms", "pt2, ms", "ONNX Runtime, ms", "pt2 / eager", "ONNX / eager"], rows))


def _measure(name: str, members: int, side: int, repeats: int) -> list[list[str]]:
    section = configure(f"model={name}").model
    config = LocalizerConfig.read({key: getattr(section, key) for key in LocalizerConfig.model_fields}, "model")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = {"image_size": side, "sample_rate": 16000, "duration_s": 1.0, "threshold": 0.5}
        model = LocalizerEnsemble([Localizer(config) for _ in range(members)])
        save_exported(folder, model, ExportedModel(members=[config] * members, **about))
        for to in ("pt2", "onnx"):
            export_model(folder, to, folder / f"model.{to}", name)
        eager = load_exported(folder)[0].predict
        module = torch.export.load(folder / "model.pt2").module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        rows = []
        for batch in _BATCHES:
            frames = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
            sounds = torch.rand(batch, 16000) - 0.5
            inputs = {"frames": frames.numpy(), "waveforms": sounds.numpy()}
            ways: list[Callable[[], object]] = [
                partial(eager, frames, sounds),
                torch.inference_mode()(partial(module, frames, sounds)),
                partial(session.run, None, inputs),
            ]
            for way in ways:
                way()
            turns = [[cpu_seconds(way) for way in ways] for _ in range(repeats)]
            times = [f"{1e3 * statistics.median(turn[k] for turn in turns):.1f}" for k in range(3)]
            ratios = [f"{statistics.median(turn[k] / turn[0] for turn in turns):.2f}" for k in (1, 2)]
            rows.append([f"{members} x {name}, {side} px", str(batch), *times, *ratios])
    return rows


if __name__ == "__main__":
    main()
