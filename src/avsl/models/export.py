"""The exported model: a folder with ``model.json`` and ``model.safetensors``, all that inference needs."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avsl.models.localizer import Localizer, LocalizerConfig, LocalizerEnsemble
from avsl.schema import ConfigError, StrictConfig


class ExportedModel(StrictConfig):
    """What ``model.json`` says.

    Attributes:
        members: one configuration for each averaged localiser.
        image_size: side of the square frames it was trained on, px.
        sample_rate: Hz.
        duration_s: length of the sound it hears, s.
        threshold: confidence from which a pixel counts as sounding, chosen on validation.
    """

    members: list[LocalizerConfig] = Field(min_length=1)
    image_size: int = Field(ge=8)
    sample_rate: int = Field(ge=8000)
    duration_s: float = Field(gt=0)
    threshold: float = Field(ge=0, le=1)


def save_exported(folder: Path, model: LocalizerEnsemble, description: ExportedModel) -> None:
    """Write an inference model; each file is replaced atomically, the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / ".model.safetensors.part")
    (folder / ".model.safetensors.part").replace(folder / "model.safetensors")
    part = folder / ".model.json.part"
    part.write_text(json.dumps(description.model_dump(mode="json"), indent=2) + "\n")
    part.replace(folder / "model.json")


def read_description(folder: Path) -> ExportedModel:
    """Read ``model.json``.

    Raises:
        ConfigError: it is absent or not one of ours.
    """
    path = folder / "model.json"
    try:
        return ExportedModel.read(json.loads(path.read_text()), "model")
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no exported model (model.json is missing)") from None
    except (json.JSONDecodeError, ValidationError) as error:
        raise ConfigError(f"{path} is not a model description: {error}") from None


def load_exported(folder: Path) -> tuple[LocalizerEnsemble, ExportedModel]:
    """Load an exported model in evaluation mode.

    Raises:
        ConfigError: a file is missing or damaged, or the weights do not fit the description.
    """
    description = read_description(folder)
    model = LocalizerEnsemble([Localizer(member) for member in description.members])
    weights = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise ConfigError(f"{weights} is missing") from None
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights} does not hold this model's weights: {error}") from None
    return model.eval(), description
