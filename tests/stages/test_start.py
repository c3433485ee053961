"""The start: self-supervised weights that every framework of a seed begins at."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.fixtures.messages import facts

from avsl.build import make_framework
from avsl.config.compose import compose
from avsl.errors import DataError
from avsl.frameworks.branch import Branch, Teacher
from avsl.models.start import start_file
from avsl.paths import Layout
from avsl.stages.start import start, start_seeds, start_student
from avsl.stages.train import train

_ASKED = ["start.epochs=1"]


def _files(*overrides: str) -> list[Path]:
    folder = Layout.of(compose([*_ASKED, *overrides])).start_of_seed
    return [start_file(folder, k) for k in (0, 1)]


@pytest.mark.parametrize("framework", ["supervised", "dmt"])
def test_students_and_teachers_begin_at_the_start_weights(framework: str, project: Path) -> None:
    """Student k has the weights of file k; a teacher is a copy of its student; the two students differ."""
    start(_ASKED)
    saved = [load_file(path) for path in _files()]
    assert any(not torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    config = compose([*_ASKED, f"framework={framework}"])
    modules = list(make_framework(config, 6, Layout.of(config).start).modules())  # type: ignore[attr-defined]
    students = [module for module in modules if isinstance(module, Branch)]
    teachers = [module for module in modules if isinstance(module, Teacher)]
    assert len(students) == (2 if framework == "dmt" else 1)
    for student, weights in zip(students, saved, strict=False):
        state = student.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[name], weights[name]) for name in weights)
    for teacher, student in zip(teachers, students, strict=False):
        expected = student.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in teacher.model.state_dict().items())


def test_labels_decide_nothing_and_seeds_everything(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file stays as it is for another framework, ratio and length of training; another seed has its own."""
    start_student(_ASKED, 0)
    path = _files()[0]
    before = path.read_bytes()
    modified = path.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "avsl"):
        start_student([*_ASKED, "framework=xpl", "split.label_ratio=0.5", "trainer.epochs=5"], 0)
    assert str(path) in caplog.text
    assert path.stat().st_mtime_ns == modified
    start_student([*_ASKED, "seed=1"], 0)
    other = _files("seed=1")[0]
    assert other != path
    assert other.read_bytes() != before


def test_a_damaged_start_is_trained_again(project: Path) -> None:
    """It costs a training, and ends with the same weights."""
    start_student(_ASKED, 0)
    path = _files()[0]
    before = load_file(path)
    damaged = path.read_bytes()[:100]
    path.unlink()  # its tensors are mapped
    path.write_bytes(damaged)
    start_student(_ASKED, 0)
    after = load_file(path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_training_without_its_start_names_the_file_and_the_command(project: Path) -> None:
    """Nothing is trained from other weights instead."""
    with pytest.raises(DataError, match=facts("0.safetensors", "avsl start", "start.epochs=0")):
        train(_ASKED)


def test_a_start_of_another_model_is_refused(project: Path) -> None:
    """Its file and a tensor of another shape are named."""
    start(_ASKED)
    config = compose([*_ASKED, "model.dim=4"])
    with pytest.raises(DataError, match=facts(str(_files()[0]), "avsl start")):
        make_framework(config, 6, _files()[0].parent)


def test_without_epochs_the_stage_leaves_an_empty_folder(project: Path) -> None:
    """DVC finds its output, and trainings begin at initial weights."""
    start_seeds()
    layout = Layout.of(compose())
    assert layout.start is None
    assert list(layout.start_of_seed.parent.iterdir()) == []
