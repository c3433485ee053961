"""Export to files that run without this package: ONNX, and PyTorch's pt2 archive."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsl.errors import AvslError
from avsl.files import whole_file
from avsl.functional.image import normalize
from avsl.models import ExportedModel, LocalizerEnsemble, load_exported
from avsl.models.weights.pretrained import license_of
from avsl.schema import lookup
from avsl.types import AVBatch

# Largest difference to PyTorch's maps.
_TOLERANCE = 1e-4
_INPUTS = ("frames", "waveforms")
_METADATA_FILE = "avsl.json"

_Localize = Callable[[Tensor, Tensor], Tensor]


class ExportError(AvslError):
    """A model that cannot be exported; the message is one sentence that says why."""


class _Graph(nn.Module):
    """What is exported: (B, H, W, 3) uint8 frames and (B, T) waveforms to P, (B, h, w)."""

    def __init__(self, model: LocalizerEnsemble) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, waveforms: Tensor) -> Tensor:
        """As :meth:`LocalizerEnsemble.predict`, whose index and geometry no network reads and no tracer can make."""
        unused = waveforms.new_empty(0)
        batch = AVBatch(frame=normalize(frames), waveform=waveforms, features={}, index=unused, geometry=unused)
        confidence: Tensor = self.model(batch)
        return confidence


def export_model(folder: Path, to: str, output: Path, source: str) -> float:
    """Write a model with its front end and its metadata as one file, and compare its maps with PyTorch's.

    Inputs are ``frames``, (B, H, W, 3) uint8 RGB, and ``waveforms``, (B, duration · sample rate) float32 mono in
    [-1, 1]; the output ``confidence`` is P, (B, h, w) in [0, 1]. B is free, and so are H and W where the network
    allows it. Metadata are in ONNX's ``metadata_props``, or in the archive's extra file ``avsl.json``.

    Args:
        folder: of the exported model.
        to: ``onnx`` or ``pt2``.
        output: the file.
        source: where the model is from, for the metadata.

    Returns:
        The largest difference between its maps and PyTorch's.

    Raises:
        ConfigError: the folder holds no exported model, or there is no such format.
        ExportError: a package is missing, the network cannot be exported, or its maps differ by more than 1e-4.
        OSError: the file cannot be written.
    """
    write = lookup(to, _WRITERS, "format")
    model, description = load_exported(folder)
    with _quiet(f"{source} cannot be exported to {to}"):
        program = _trace(model, description)
    free = all(isinstance(side, torch.SymInt) for side in _frame_sides(program))
    with _quiet(f"{source} cannot be exported to {to}"):
        content, localize = write(program, _metadata(description, source, free))
        difference = max(_differences(model, localize, description, free))
    # Not "greater": a NaN must not pass.
    if not difference <= _TOLERANCE:
        raise ExportError(f"{source} cannot be exported to {to}: its maps would differ by {difference:.2g}")
    with whole_file(output) as part:
        part.write_bytes(content)
    return difference


@contextmanager
def _quiet(failure: str) -> Iterator[None]:
    """Hide the exporters' remarks, and make what they raise one sentence."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    except ModuleNotFoundError as error:
        raise ExportError(f"{failure}: {error.name} is missing: pip install 'avsl[export]'") from error
    except (OSError, AvslError):
        raise
    except Exception as error:  # each exporter has its own errors, with a common base in none
        raise ExportError(f"{failure}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace(model: LocalizerEnsemble, description: ExportedModel) -> torch.export.ExportedProgram:
    frames, waveforms = _example(description, 2, 0, 0)
    # It caches its levels, which must be tensors and not a tracer's stand-ins.
    normalize(frames)
    batch, side = torch.export.Dim("batch", min=1), torch.export.Dim.AUTO
    with torch.no_grad():
        return torch.export.export(
            _Graph(model),
            (frames, waveforms),
            dynamic_shapes={"frames": {0: batch, 1: side, 2: side}, "waveforms": {0: batch}},
        )


def _example(description: ExportedModel, batch: int, taller: int, wider: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, description.image_size + taller, description.image_size + wider, 3)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    samples = round(description.duration_s * description.sample_rate)
    return frames, torch.rand(batch, samples, generator=generator) - 0.5


def _frame_sides(program: torch.export.ExportedProgram) -> tuple[object, object]:
    (frames,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == _INPUTS[0])
    _, height, width, _ = frames.meta["val"].shape
    return height, width


def _metadata(description: ExportedModel, source: str, free: bool) -> dict[str, Any]:
    names = description.initial_weights
    stated = {name: license_of(name) for name in names} or (
        "no pretrained weights are recorded" if description.trained_on else "unknown, as of published weights"
    )
    return {
        "made_by": f"avsl {version('avsl')}",
        "source": source,
        "trained_on": description.trained_on,
        "threshold": description.threshold,
        "presence": description.presence,
        "image_size": description.image_size,
        "frame_size": "any multiple of 32 px" if free else "image_size",
        "sample_rate": description.sample_rate,
        "duration_s": description.duration_s,
        "normalization": "frames are uint8 RGB: the graph subtracts the mean and divides by the standard deviation",
        "mean": [member.image.mean for member in description.members],
        "std": [member.image.std for member in description.members],
        "license_of_weights": stated,
    }


def _to_onnx(program: torch.export.ExportedProgram, metadata: dict[str, Any]) -> tuple[bytes, _Localize]:
    import onnxruntime

    exported = torch.onnx.export(
        program,
        input_names=_INPUTS,
        output_names=["confidence"],
        # Names for the axes that the program has left free.
        dynamic_shapes={"frames": {0: "batch", 1: "height", 2: "width"}, "waveforms": {0: "batch"}},
        verbose=False,
    )
    assert exported is not None  # it is None only where a file was asked for
    for key, value in metadata.items():
        exported.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    content: bytes = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def localize(frames: Tensor, waveforms: Tensor) -> Tensor:
        inputs = dict(zip(_INPUTS, (frames.numpy(), waveforms.numpy()), strict=True))
        return torch.from_numpy(session.run(None, inputs)[0])

    return content, localize


def _to_pt2(program: torch.export.ExportedProgram, metadata: dict[str, Any]) -> tuple[bytes, _Localize]:
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files={_METADATA_FILE: json.dumps(metadata)})
    content = archive.getvalue()
    module: _Localize = torch.export.load(io.BytesIO(content)).module()
    return content, module


_WRITERS: dict[str, Callable[[torch.export.ExportedProgram, dict[str, Any]], tuple[bytes, _Localize]]] = {
    "onnx": _to_onnx,
    "pt2": _to_pt2,
}


def _differences(
    model: LocalizerEnsemble, localize: _Localize, description: ExportedModel, free: bool
) -> Iterator[float]:
    """Largest differences of maps: of one frame, and of three, of another size where it is free."""
    for batch, taller, wider in ((1, 0, 0), (3, 32 * free, 64 * free)):
        frames, waveforms = _example(description, batch, taller, wider)
        with torch.no_grad():
            found = localize(frames, waveforms)
        yield float((found - model.predict(frames, waveforms)).abs().max())
