"""Exported files: they give PyTorch's maps for other batches and frame sizes, and say what they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts, says
from torch import Tensor, nn

from avsl.cli import main
from avsl.inference.export import ExportError, export_model
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, load_exported, save_exported
from avsl.schema import ConfigError

_FORMATS = ("onnx", "pt2")
_VGGISH = {"kind": "vggish", "channels": (4, 4, 8, 8), "hidden": 16}
_WAVEFORM = {"kind": "waveform", "channels": (4, 8)}

# What members change in the tiny localizer, which has a log-mel spectrogram.
_MEMBERS: dict[str, tuple[dict[str, Any], ...]] = {
    "log-mel": ({},),
    "log-spectrogram": ({"audio": {"log_spectrogram": {}}},),
    "waveform": ({"audio": _WAVEFORM},),
    "vggish": ({"audio": _VGGISH},),
    "soundnet": ({"audio": {"kind": "soundnet"}},),
    "joined": ({"audio": {"kind": "joined", "encoders": [{"kind": "aisfx", "channels": (4, 4, 8, 8)}, _WAVEFORM]}},),
    "coding": ({"audio": _VGGISH, "coding": {"width": 4}},),
    # On two grids, with two levels of frames.
    "two": ({}, {"audio": _WAVEFORM, "image": {"stages": (2,), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}}),
}


def _save(tiny: LocalizerConfig, folder: Path, name: str = "log-mel", **changes: Any) -> Path:
    torch.manual_seed(0)
    members = []
    base = tiny.model_dump()
    for member in _MEMBERS[name]:
        audio = member.get("audio", {})
        section = base | member | {"image": base["image"] | member.get("image", {})}
        section["audio"] = audio if "kind" in audio else base["audio"] | audio
        members.append(LocalizerConfig.read(section | {"offset": 0.0}, "model"))
    model = LocalizerEnsemble([Localizer(member) for member in members])
    for module in model.modules():  # else an encoder of random weights hardly hears what it is given
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_var.mul_(0.3)  # type: ignore[union-attr]
    about = {"image_size": 64, "sample_rate": 16000, "duration_s": 1.0, "threshold": 0.4, "presence": 0.2}
    save_exported(folder, model, ExportedModel(members=members, **about | {"trained_on": "clips"} | changes))
    return folder


def _open(path: Path) -> tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any]]:
    """An exported file without avsl, and its metadata."""
    if path.suffix == ".pt2":
        extra = {"avsl.json": ""}
        module = torch.export.load(path, extra_files=extra).module()
        return module, json.loads(extra["avsl.json"])
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def localize(frames: Tensor, waveforms: Tensor) -> Tensor:
        (found,) = session.run(["confidence"], {"frames": frames.numpy(), "waveforms": waveforms.numpy()})
        return torch.from_numpy(found)

    return localize, session.get_modelmeta().custom_metadata_map


def _inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
    return frames, torch.randn(batch, 16000, generator=generator).cumsum(1).div(100).tanh()


@pytest.mark.parametrize("to", _FORMATS)
@pytest.mark.parametrize("name", ["log-mel", *(pytest.param(n, marks=pytest.mark.slow) for n in list(_MEMBERS)[1:])])
def test_maps_are_pytorchs(tiny: LocalizerConfig, tmp_path: Path, name: str, to: str) -> None:
    """For one clip and for three, and for frames of another size and shape, which the tracer has not met."""
    folder = _save(tiny, tmp_path / "model", name)
    assert export_model(folder, to, tmp_path / f"model.{to}", "model") <= 1e-4
    localize, _ = _open(tmp_path / f"model.{to}")
    model, _ = load_exported(folder)
    for batch, height, width in ((1, 64, 64), (3, 64, 64), (2, 96, 160)):
        frames, waveforms = _inputs(batch, height, width)
        wanted = model.predict(frames, waveforms)
        torch.testing.assert_close(localize(frames, waveforms), wanted, atol=1e-4, rtol=0)
        # The sound matters: a tone gives other maps.
        tone = torch.arange(16000).mul(0.4).sin().expand(batch, -1)
        assert (model.predict(frames, tone) - wanted).abs().max() > 5e-4
    assert {path.name for path in tmp_path.iterdir()} == {"model", f"model.{to}"}


@pytest.mark.parametrize("to", _FORMATS)
def test_the_file_says_what_it_is(
    tiny: LocalizerConfig, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes it; thresholds, what it sees and hears, and whose weights are in it, can be read from it."""
    folder = _save(tiny, tmp_path / "model", initial_weights=("efficientnet_lite0", "mine.safetensors"))
    assert main(["export", str(folder), "--to", to, "--output", str(tmp_path / f"new/out.{to}")]) == 0
    assert says(capsys.readouterr().out, f"new/out.{to}", folder)
    _, metadata = _open(tmp_path / f"new/out.{to}")
    read = {key: json.loads(value) if to == "onnx" and value[0] in "{[0123456789" else value
            for key, value in metadata.items()}  # fmt: skip
    wanted: dict[str, object] = {
        **{"threshold": 0.4, "presence": 0.2, "image_size": 64, "sample_rate": 16000, "duration_s": 1.0},
        **{"trained_on": "clips", "source": str(folder), "frame_size": "any multiple of 32 px"},
        "license_of_weights": {"efficientnet_lite0": "Apache-2.0", "mine.safetensors": "unknown"},
    }
    assert wanted.items() <= read.items()
    np.testing.assert_allclose(read["mean"], [[0.485, 0.456, 0.406]])


def test_what_cannot_be_exported_leaves_no_file(
    tiny: LocalizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown format, a folder without a model, a missing package, and maps that are not the same."""
    folder, output = _save(tiny, tmp_path / "model"), tmp_path / "out"
    with pytest.raises(ConfigError, match=facts("format tflite onnx pt2")):
        export_model(folder, "tflite", output, "model")
    with pytest.raises(ConfigError, match=facts("model.json", tmp_path)):
        export_model(tmp_path, "pt2", output, "model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=facts("onnxruntime avsl[export]")):
        export_model(folder, "onnx", output, "model")
    load = torch.export.load

    class Shifted:
        def __init__(self, program: torch.export.ExportedProgram) -> None:
            self.program = program

        def module(self) -> Callable[[Tensor, Tensor], Tensor]:
            inner = self.program.module()
            return lambda frames, waveforms: inner(frames, waveforms) + 2e-4

    monkeypatch.setattr(torch.export, "load", lambda file: Shifted(load(file)))
    with pytest.raises(ExportError, match=facts("model pt2 0.0002")):
        export_model(folder, "pt2", output, "model")
    assert not output.exists()
