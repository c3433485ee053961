"""The exported model: a folder with ``model.json`` and ``model.safetensors``, which inference needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avsl.files import whole_file, write_json
from avsl.models.audio import JoinedEncoderConfig
from avsl.models.localizer import Localizer, LocalizerConfig, LocalizerEnsemble
from avsl.schema import ConfigError, StrictConfig

_Section = TypeVar("_Section", bound=StrictConfig)


class ExportedModel(StrictConfig):
    """The contents of ``model.json``.

    Attributes:
        members: one configuration for each averaged localizer.
        image_size: side of the training frames, px.
        sample_rate: Hz.
        duration_s: length of the model's sounds, s.
        threshold: confidence from which a pixel counts as sounding, chosen on validation, or without labels by the
            share of training frames that it covers.
        presence: peak of a map below which no visible source sounds, chosen on validation; 0 in older exports,
            which apply only the threshold.
        trained_on: name of the training data set; empty if unknown, as for a published model.
        initial_weights: the pretrained weights that its training started from: names, or files without their folders;
            set by :func:`save_exported`, empty for none and in older exports.
    """

    members: list[LocalizerConfig] = Field(min_length=1)
    image_size: int = Field(ge=8)
    sample_rate: int = Field(ge=8000)
    duration_s: float = Field(gt=0)
    threshold: float = Field(ge=0, le=1)
    presence: float = Field(default=0.0, ge=0, le=1)
    trained_on: str = ""
    initial_weights: tuple[str, ...] = ()


def save_exported(folder: Path, model: LocalizerEnsemble, description: ExportedModel) -> None:
    """Write a model for inference; each file is replaced atomically, the description last.

    The configurations name no files of initial weights, which other machines may not have; ``initial_weights`` does.

    Raises:
        OSError: a file cannot be written.
    """
    named = {*description.initial_weights, *(name for m in description.members for name in _initial_weights(m))}
    members = [_from_scratch(m) for m in description.members]
    description = description.model_copy(update={"members": members, "initial_weights": tuple(sorted(named))})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = folder / "model.safetensors"
    with whole_file(weights) as part:
        try:
            save_file(tensors, part)
        except SafetensorError as error:  # a full disk among others
            raise OSError(f"{weights} cannot be written: {error}") from error
    # Without pretrained weights the description stays, byte for byte, as it was before they were recorded.
    write_json(
        folder / "model.json", description.model_dump(mode="json", exclude=None if named else {"initial_weights"})
    )


def _initial_weights(config: LocalizerConfig) -> Iterator[str]:
    """The names of the pretrained weights in a configuration."""
    audio = config.audio
    for section in (config.image, *(audio.encoders if isinstance(audio, JoinedEncoderConfig) else (audio,))):
        if weights := getattr(section, "weights", ""):
            yield f"timm's {config.image.backbone}" if weights == "timm" else Path(weights).name


def _from_scratch(config: LocalizerConfig) -> LocalizerConfig:
    """Remove the files of initial weights from a configuration."""
    audio = config.audio
    if isinstance(audio, JoinedEncoderConfig):
        audio = audio.model_copy(update={"encoders": tuple(map(_without_weights, audio.encoders))})
    return config.model_copy(update={"image": _without_weights(config.image), "audio": _without_weights(audio)})


def _without_weights(section: _Section) -> _Section:
    return section.model_copy(update={"weights": ""}) if hasattr(section, "weights") else section


def read_description(folder: Path) -> ExportedModel:
    """Read ``model.json``.

    Raises:
        ConfigError: it is missing or invalid.
    """
    path = folder / "model.json"
    try:
        section = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no exported model (model.json is missing)") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise ConfigError(f"{path} is not a model description: {error}") from None
    if not isinstance(section, dict):
        raise ConfigError(f"{path} is not a model description: not a mapping")
    try:
        return ExportedModel.read(section, "model")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_exported(folder: Path) -> tuple[LocalizerEnsemble, ExportedModel]:
    """Load an exported model in evaluation mode.

    Raises:
        ConfigError: a file is missing or damaged, or the weights do not fit the description or are not finite.
    """
    description = read_description(folder)
    model = LocalizerEnsemble([Localizer(member) for member in description.members])
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
        model.load_state_dict(tensors)
    except FileNotFoundError:
        raise ConfigError(f"{weights} is missing") from None
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(
            f"{weights} does not have the weights of the described model: {' '.join(str(error).split())}"
        ) from None
    check_finite(tensors, weights)
    return model.eval(), description


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights with NaN or infinity.

    Args:
        tensors: by name.
        where: source of the tensors, for the error.

    Raises:
        ConfigError: a tensor holds NaN or infinity; names it.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ConfigError(f"{where}: '{name}' holds NaN or infinity")
