"""Start weights: what a self-supervised training leaves for the students of every framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avsl.errors import DataError
from avsl.files import whole_file
from avsl.models.export import check_finite


def start_file(folder: Path, k: int) -> Path:
    """The file of the k-th student's start weights."""
    return folder / f"{k}.safetensors"


def save_start(student: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student's weights atomically: its localizer, its objective and its momentum encoders.

    Args:
        student: the trained student.
        path: of the file.
        metadata: texts that are kept with the weights.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    with whole_file(path) as part:
        try:
            save_file(tensors, part, dict(metadata))
        except SafetensorError as error:  # a full disk among others
            raise OSError(f"{path} cannot be written: {error}") from error


def load_start(student: nn.Module, path: Path) -> None:
    """Read into a student what :func:`save_start` wrote.

    Raises:
        DataError: the file is missing or damaged, or its weights are of another model or objective, or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: run `avsl start`, or set start.epochs=0 to train from initial weights")
    try:
        tensors = load_file(path)
        student.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        found = " ".join(str(error).split())
        raise DataError(f"{path} does not hold start weights of this model: {found}: run `avsl start` again") from None
    check_finite(tensors, path)
