"""The whole configuration: Hydra composes it, params.yaml gives its defaults, the models here validate it.

Sections whose keys depend on a choice nest them under its name, in params.yaml and on the command line alike:
``framework: {name: dmt, dmt: {delta: 0.6}}`` and ``framework=dmt framework.dmt.delta=0.6``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field, SerializeAsAny, model_serializer, model_validator

from avsl.data.registry import DATASETS
from avsl.data.splits import SplitConfig
from avsl.data.transforms import AugmentConfig
from avsl.frameworks import FRAMEWORKS
from avsl.models import LocalizerConfig, ObjectPriorConfig
from avsl.models.audio import AudioEncoderConfig
from avsl.models.image import ImageEncoderConfig
from avsl.objectives import OBJECTIVES
from avsl.schema import ConfigError, StrictConfig, pick
from avsl.tracking.runs import TrackingConfig

# Hydra keeps its state in globals.
_HYDRA = threading.Lock()
# Hydra groups; each is chosen by name and has its folder in pipelines/conf.
GROUPS = ("data", "model", "objective", "framework", "trainer")


class SecondStudent(StrictConfig):
    """The encoders in which the second student of a framework with two differs from the first.

    Attributes:
        image: its image encoder; None for the first one's.
        audio: its audio encoder; None for the first one's.
    """

    image: ImageEncoderConfig | None = None
    audio: AudioEncoderConfig | None = None


class ModelSection(LocalizerConfig):
    """A localiser.

    Attributes:
        name: the Hydra choice it comes from.
        second: what the second student has instead (DMT's paper: VGGish and SoundNet audio).
    """

    name: str
    second: SecondStudent = SecondStudent()

    def student(self, k: int) -> LocalizerConfig:
        """The k-th student's localiser."""
        fields = {name: getattr(self, name) for name in LocalizerConfig.model_fields}
        if k:
            fields |= {name: encoder for name, encoder in self.second if encoder is not None}
        return LocalizerConfig(**fields)


class TrainerConfig(StrictConfig):
    """Training.

    Attributes:
        name: the Hydra choice it comes from.
        epochs: passes over as many rows as the training part has.
        batch_size: rows of a step, of all devices together.
        labelled_batch_size: how many of them are labelled, where there are unlabelled ones.
        learning_rate: peak of the cosine schedule.
        warmup_share: share of all steps in which the learning rate rises linearly.
        weight_decay: AdamW's, on matrices and kernels.
        gradient_clip: highest norm of the gradient; 0 leaves it alone.
        precision: Lightning's name, never chosen by what the machine has.
        accelerator: ``cpu`` or ``gpu``.
        devices: how many of them, on one machine; each is a process that takes an equal share of a step's rows.
            Contrastive negatives are of all of them, batch-norm statistics of each one's own rows; the first one's
            are kept.
        channels_last: memory layout of images and kernels.
        cache_features: compute spectrograms once and keep them in a file beside the prepared set.
        checkpoint_every: steps between checkpoints.
        loss_limit: a loss beyond it, on either side of 0, has exploded and counts as not finite.
        non_finite: what becomes of a step whose loss or gradient is NaN or infinite: ``stop`` ends the training,
            ``skip`` changes nothing by it and counts it.
    """

    name: str = "default"
    epochs: int = Field(16, ge=1)
    batch_size: int = Field(64, ge=2)
    labelled_batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(1.0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    accelerator: Literal["cpu", "gpu"] = "cpu"
    devices: int = Field(1, ge=1)
    channels_last: bool = True
    cache_features: bool = True
    checkpoint_every: int = Field(100, ge=1)
    loss_limit: float = Field(1e4, gt=0)
    non_finite: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _labelled_rows_fit(self) -> Self:
        if self.labelled_batch_size >= self.batch_size:
            raise ValueError("labelled_batch_size must be smaller than batch_size")
        if self.batch_size % self.devices or self.labelled_batch_size % self.devices:
            raise ConfigError(
                f"keys 'trainer.batch_size' = {self.batch_size} and 'trainer.labelled_batch_size' = "
                f"{self.labelled_batch_size} must be divisible by 'trainer.devices' = {self.devices}"
            )
        return self


class EvaluateConfig(StrictConfig):
    """Evaluation.

    Attributes:
        batch_size: rows at a time.
        gallery: validation clips drawn in the gallery.
        ogl: an object prior with which the model is scored beside the model alone; None for none.
    """

    batch_size: int = Field(100, ge=1)
    gallery: int = Field(16, ge=1, le=200)
    ogl: ObjectPriorConfig | None = None


class Choice(StrictConfig):
    """A section of the form ``{name: X, X: {…}}``, its inner part validated by X's own model."""

    name: str
    settings: SerializeAsAny[StrictConfig]

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return {"name": self.name, self.name: self.settings.model_dump(mode="json")}


def _choice(registry: Mapping[str, tuple[Any, type[StrictConfig]]], what: str) -> BeforeValidator:
    """Reads a choice among ``registry``."""

    def read(section: Any) -> Choice:
        if isinstance(section, Choice):
            return section
        if not isinstance(section, Mapping) or "name" not in section:
            raise ConfigError(f"key '{what}.name' is required: allowed are {', '.join(sorted(registry))}")
        name = section["name"]
        _, model = pick(name, registry, what)
        for key in section:
            if key not in ("name", name):
                raise ConfigError(f"unknown key '{what}.{key}': allowed are name, {name}")
        return Choice(name=name, settings=model.read(section.get(name) or {}, f"{what}.{name}"))

    return BeforeValidator(read)


class Config(StrictConfig):
    """One run's configuration.

    Attributes:
        seed: of the networks' weights, the data order and the augmentation.
        root: folder of everything that is made.
        data: the data set and its settings.
        split: labelled share and its seed.
        model: the localiser.
        objective: the self-supervised objective and its settings.
        framework: the semi-supervised framework and its settings.
        augment: augmentation.
        trainer: optimisation.
        evaluate: evaluation.
        tracking: MLflow.
    """

    seed: int = Field(0, ge=0)
    root: Path = Path("outputs")
    data: Annotated[Choice, _choice(DATASETS, "data")]
    split: SplitConfig
    model: ModelSection
    objective: Annotated[Choice, _choice(OBJECTIVES, "objective")]
    framework: Annotated[Choice, _choice(FRAMEWORKS, "framework")]
    augment: AugmentConfig = AugmentConfig()
    trainer: TrainerConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()

    def training_hash(self) -> str:
        """SHA-256 of all that decides a training's result, apart from the data and the code.

        `trainer.non_finite` is no part of it: no checkpoint is written after a step that it decides on unless that step
        was skipped, so what stopped may go on with ``skip``.
        """
        decisive = lasting(self.model_dump(mode="json", exclude={"root", "data", "evaluate", "tracking"}))
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values less what may differ between a training and its continuation."""
    return {**values, "trainer": {key: value for key, value in values["trainer"].items() if key != "non_finite"}}


def project_root() -> Path:
    """The folder that holds params.yaml and pipelines/conf: here or the nearest one above.

    Raises:
        ConfigError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "pipelines" / "conf").is_dir():
            return folder
    raise ConfigError(f"no params.yaml with pipelines/conf in {here} or above it: run avsl inside the project")


def compose(overrides: Sequence[str] = (), project: Path | None = None) -> Config:
    """The configuration that a stage, a person and a sweep get when they ask for the same thing.

    Hydra composes pipelines/conf; params.yaml chooses the groups and sets values; ``overrides`` come last. Values that
    params.yaml gives for a choice (``framework.dmt``) apply only where that choice is made; its section ``tuned`` holds
    what sweeps have found, ``tuned.dmt.r03`` for DMT at a ratio of 0.03, and is laid over its other sections there.

    Args:
        overrides: Hydra overrides (``framework=dmt``, ``split.label_ratio=0.1``).
        project: the folder with params.yaml and pipelines/conf; found from the working directory by default.

    Raises:
        ConfigError: an override or params.yaml names an unknown key or choice, or a value is out of range.
    """
    project = project or project_root()
    params = read_params(project)
    try:
        # First which choices are made, by params.yaml, an experiment or the command line; then with their values.
        chosen = _hydra(project, params, {}, overrides)
        selected = {group: str(chosen[group]["name"]) for group in GROUPS}
        values = _applicable(params, selected)
        tree = _hydra(project, params, values, overrides)
        if tuned := _tuned(params, selected["framework"], tree.split.label_ratio):
            laid_over = OmegaConf.to_container(OmegaConf.merge(values, tuned))
            tree = _hydra(project, params, cast("dict[str, Any]", laid_over), overrides)
        return Config.read(_plain(tree), "")
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None


def compose_group(group: str, name: str, overrides: Sequence[str], project: Path) -> dict[str, Any]:
    """One Hydra group by itself, for what is no part of a run's configuration.

    Args:
        group: its folder in pipelines/conf, the section that it fills, and the prefix of its keys in ``overrides``.
        name: the choice.
        overrides: applied over it.
        project: the folder with params.yaml and pipelines/conf.

    Returns:
        The section, plain and not validated.

    Raises:
        ConfigError: there is no such choice, or an override cannot be read.
    """
    conf = project / "pipelines" / "conf"
    pick(name, {path.stem: path for path in (conf / group).glob("*.yaml")}, group)
    forced = [text if text.startswith(("+", "~")) else f"++{text}" for text in overrides]
    try:
        section = _plain(_compose_with(conf, [{group: name}, "_self_"], {}, forced))[group]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    if not isinstance(section, dict):
        raise ConfigError(f"key '{group}' is not a section")
    return section


def as_override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it, so that the very value comes out again."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"[A-Za-z_][\w./:+-]*", value) and value.lower() not in ("true", "false", "null", "inf", "nan"):
        return f"{key}={value}"
    # Within quotes a backslash is itself, but before a quote.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
    escaped = doubled.replace("'", r"\'")
    return f"{key}='{escaped}'"


def ratio_key(label_ratio: float) -> str:
    """A label ratio as a key of ``tuned``, in per cent: r03 is 0.03, r10 is 0.1, r00_5 is 0.005, r100 is 1.

    DVC takes a dot in a key for a step into a section.
    """
    whole, _, rest = f"{100 * label_ratio:.6g}".partition(".")
    return f"r{whole.zfill(2)}{f'_{rest}' if rest else ''}"


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is not a mapping")
    return {str(key): value for key, value in plain.items()}


def _tuned(params: Mapping[str, Any], framework: str, label_ratio: float) -> Mapping[str, Any]:
    """What a sweep has found for this framework at this ratio, as sections of params.yaml."""
    tuned = params.get("tuned") or {}
    for name, ratios in tuned.items():
        pick(name, FRAMEWORKS, "framework in params.yaml's section 'tuned':")
        for key in ratios or {}:
            number = str(key).removeprefix("r").replace("_", ".")
            if not re.fullmatch(r"\d+(\.\d+)?", number) or ratio_key(float(number) / 100) != key:
                raise ConfigError(f"unknown key 'tuned.{name}.{key}': allowed are label ratios, as r03 for 0.03")
    found: Mapping[str, Any] = (tuned.get(framework) or {}).get(ratio_key(float(label_ratio))) or {}
    return found


def _hydra(project: Path, params: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Compose, each over the one before: the groups, config.yaml, ``values``, an experiment, ``overrides``."""
    asked = OverridesParser.create().parse_overrides(list(overrides))
    for text, override in zip(overrides, asked, strict=True):
        if override.is_sweep_override():
            raise ConfigError(f"'{text}' gives several values where a run takes one")
    # Hydra knows only the keys its files write down; which keys there are is for the models to say.
    wanted = [
        text if text.startswith(("+", "~")) or o.key_or_group in (*GROUPS, "experiment") else f"++{text}"
        for text, o in zip(overrides, asked, strict=True)
    ]
    conf = project / "pipelines" / "conf"
    choices = [(group, params[group]["name"]) for group in GROUPS]
    choices += [(o.key_or_group, o.value()) for o in asked if o.key_or_group in (*GROUPS, "experiment")]
    for group, name in choices:
        pick(str(name), {path.stem: path for path in (conf / group).glob("*.yaml")}, group)
    groups = [{group: params[group]["name"]} for group in GROUPS]
    defaults = [*groups, "config", "params", {"optional experiment": None}, "_self_"]
    return _compose_with(conf, defaults, values, wanted)


def _compose_with(
    conf: Path, defaults: Sequence[Any], values: Mapping[str, Any], overrides: Sequence[str]
) -> DictConfig:
    """Hydra's composition of a defaults list, in which ``params`` stands for ``values``; any thread may ask for one."""
    with _HYDRA:
        store = ConfigStore.instance()
        store.store(name="params", node=dict(values), package="_global_")
        store.store(name="run", node={"defaults": list(defaults)})
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            return hydra_compose("run", list(overrides))


def read_params(project: Path) -> dict[str, Any]:
    """params.yaml as plain values.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    path = project / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path} is not a mapping of sections")
    for group in GROUPS:
        if not isinstance(params.get(group), dict) or "name" not in params[group]:
            raise ConfigError(f"{path}: key '{group}.name' is required")
    return params


def _applicable(params: Mapping[str, Any], selected: Mapping[str, str]) -> dict[str, Any]:
    """What params.yaml sets, less the values it gives for choices that are not made."""
    values: dict[str, Any] = {}
    for section, value in params.items():
        if section in ("matrix", "tuned"):  # which stages the DAG has; what is laid over the rest, see compose
            continue
        if section in ("model", "trainer"):
            values[section] = value if selected[section] == value["name"] else {}
        elif section in GROUPS:
            values[section] = {key: inner for key, inner in value.items() if key == selected[section]}
        else:
            values[section] = value
    return values
