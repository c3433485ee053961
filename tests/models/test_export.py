"""The exported model: a folder that gives the same maps again, or says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures.messages import facts

from avsl.models import (
    ExportedModel,
    Localizer,
    LocalizerConfig,
    LocalizerEnsemble,
    load_exported,
    read_description,
    save_exported,
)
from avsl.models.image import ImageEncoder
from avsl.schema import ConfigError


def _describe(members: list[LocalizerConfig]) -> ExportedModel:
    return ExportedModel(members=members, image_size=32, sample_rate=16000, duration_s=0.25, threshold=0.4)


def _maps(model: LocalizerEnsemble) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return model.predict(frames, torch.rand(2, 4000, generator=generator) - 0.5)


@pytest.fixture
def exported(tiny: LocalizerConfig, tmp_path: Path) -> Path:
    """A folder with one exported localizer."""
    torch.manual_seed(0)
    save_exported(tmp_path / "model", LocalizerEnsemble([Localizer(tiny)]), _describe([tiny]))
    return tmp_path / "model"


def test_an_export_from_before_there_was_a_presence_leaves_all_to_the_threshold(exported: Path) -> None:
    """The description is read without it, and no peak is too low."""
    path = exported / "model.json"
    section = json.loads(path.read_text())
    assert section.pop("presence") == 0
    path.write_text(json.dumps(section))
    assert read_description(exported).presence == 0


@pytest.mark.parametrize("members", [1, 2])
def test_round_trip_gives_identical_maps(tiny: LocalizerConfig, tmp_path: Path, members: int) -> None:
    """Loaded again, in evaluation mode, every value of every map is the same, and so is the description."""
    torch.manual_seed(0)
    model = LocalizerEnsemble([Localizer(tiny) for _ in range(members)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    description = _describe([tiny] * members)
    save_exported(tmp_path / "new" / "model", model, description)
    loaded, read = load_exported(tmp_path / "new" / "model")
    assert read == description == read_description(tmp_path / "new" / "model")
    assert "initial_weights" not in json.loads((tmp_path / "new" / "model" / "model.json").read_text())
    assert not loaded.training
    assert torch.equal(_maps(loaded), _maps(model.eval()))
    assert {path.name for path in (tmp_path / "new" / "model").iterdir()} == {"model.json", "model.safetensors"}


def test_saving_replaces_what_was_there(tiny: LocalizerConfig, exported: Path) -> None:
    """A second export takes the first one's place and leaves nothing beside it."""
    before = _maps(load_exported(exported)[0])
    torch.manual_seed(1)
    save_exported(exported, LocalizerEnsemble([Localizer(tiny)]), _describe([tiny]))
    assert not torch.equal(_maps(load_exported(exported)[0]), before)
    assert len(list(exported.iterdir())) == 2


def test_an_export_does_not_need_the_weights_training_started_from(tiny: LocalizerConfig, tmp_path: Path) -> None:
    """The file of ImageNet weights may be gone; its name is recorded, but not its path, which is this machine's."""
    start = tmp_path / "start.safetensors"
    backbone = ImageEncoder(tiny.image, 4).backbone
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, start)
    member = tiny.model_copy(update={"image": tiny.image.model_copy(update={"weights": str(start)})})
    model = LocalizerEnsemble([Localizer(member)]).eval()
    save_exported(tmp_path / "model", model, _describe([member]))
    start.unlink()
    assert str(tmp_path) not in (tmp_path / "model" / "model.json").read_text()
    loaded, description = load_exported(tmp_path / "model")
    assert description.initial_weights == ("start.safetensors",)
    assert torch.equal(_maps(loaded), _maps(model))


def _delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def _drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if not name.endswith("offset")}, folder / "model.safetensors")


def _widen(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    description["members"][0]["dim"] = 16
    (folder / "model.json").write_text(json.dumps(description))


def _put_a_key(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"treshold": 0.5}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_delete("model.json"), "model.json missing"),
        (_delete("model.safetensors"), "model.safetensors missing"),
        (_cut("model.json"), "model.json"),
        (_write("model.json", b"[1, 2]"), "model.json"),
        (_write("model.json", b"\xff\xfe\x00"), "model.json"),
        (_write("model.json", b"{}"), "model.json model.members"),
        (_put_a_key, "model.json model.treshold threshold"),
        (_cut("model.safetensors"), "model.safetensors weights"),
        (_write("model.safetensors", b""), "model.safetensors weights"),
        (_drop_a_tensor, "model.safetensors weights offset"),
        (_widen, "model.safetensors weights"),
    ],
)
def test_damage_is_one_sentence_naming_the_file(exported: Path, damage: Callable[[Path], None], message: str) -> None:
    """Whatever is missing, cut, foreign or does not fit: one line, no traceback of a library."""
    damage(exported)
    with pytest.raises(ConfigError, match=facts(message)) as caught:
        load_exported(exported)
    assert "\n" not in str(caught.value)
