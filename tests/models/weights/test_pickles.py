"""Pickled weights: tensors and arrays are read, whoever saved them; anything else is refused by name, unrun."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts

from avsl.models.weights.pickles import read_pickled, read_state_dict
from avsl.schema import ConfigError


class _Command:
    """Runs a command as soon as it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["alone", "beside", "within"])
def test_nothing_in_a_file_is_run(where: str, tmp_path: Path) -> None:
    """A file that would run a command when unpickled is refused by name, and the command is not run."""
    ran, path = tmp_path / "ran", tmp_path / "best.pth"
    command = _Command(f"touch {ran}")
    content: Any = {
        "alone": command,
        "beside": {"model": {"a": torch.zeros(1)}, "args": command},
        "within": {"model": {"a": torch.zeros(1), "b": command}},
    }[where]
    torch.save(content, path)
    with pytest.raises(ConfigError, match=facts(f"{path} system")):
        read_state_dict(path)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the file was harmless, so the test proves nothing"


def test_other_objects_are_refused_too(tmp_path: Path) -> None:
    """Harmless as they may be: the class is named."""
    path = tmp_path / "best.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(ConfigError, match=facts("best.pth 'argparse.Namespace'")):
        read_state_dict(path)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    """Absent, empty, cut short, a text, or without a state dict: one sentence with the file."""
    path = tmp_path / "best.pth"
    with pytest.raises(ConfigError, match=facts("best.pth")):
        read_state_dict(path)
    torch.save({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"hello, not a checkpoint\n",
        b"epoch,loss\n1,2\n",
        b"{}",
        b"\x80\x04",
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=facts("best.pth damaged")):
            read_state_dict(path)
    for held in ([torch.zeros(1)], {"epoch": 3}, {"model": {"a": 1}}):
        torch.save(held, path)
        with pytest.raises(ConfigError, match=facts("best.pth model state_dict")):
            read_state_dict(path)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_however_it_was_saved(
    wrapper: str | None, prefix: str, zipped: bool, tmp_path: Path
) -> None:
    """Plain or beside an epoch and NumPy's scores, with and without DataParallel, in PyTorch's old format too."""
    path = tmp_path / "best.pth"
    weights = {f"{prefix}conv.weight": torch.ones(2, 2)}
    content: Any = weights if wrapper is None else {wrapper: weights, "epoch": 3, "best_cIoU": np.float64(0.3)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert set(found) == {"conv.weight"}
    assert torch.equal(found["conv.weight"], torch.ones(2, 2))


@pytest.mark.parametrize("save", [lambda held, file: np.save(file, held), torch.save], ids=["numpy", "torch"])
def test_arrays_and_scalars_are_read(save: Callable[[Any, Any], None], tmp_path: Path) -> None:
    """Within the containers that a training script saves."""
    held: dict[str, Any] = {
        "conv1": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "best": [np.float64(0.3), 7, "x"],
    }
    with (tmp_path / "held").open("wb") as file:
        save(np.array(held, dtype=object) if save is not torch.save else held, file)
    found = read_pickled(tmp_path / "held")
    np.testing.assert_array_equal(found["conv1"]["weights"], held["conv1"]["weights"])
    assert found["best"] == held["best"]


@pytest.mark.parametrize(
    "hostile", [_Command("exit 1"), np.load, torch.load, getattr, np.ctypeslib.as_array, torch.hub.load, pickle.loads]
)
def test_an_array_file_with_code_is_refused(hostile: Any, tmp_path: Path) -> None:
    """By the name of the first thing that is no array, of NumPy and PyTorch too."""
    path = tmp_path / "sound8.npy"
    np.save(path, np.array({"conv1": hostile}, dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=facts("sound8.npy")):
        read_pickled(path)
