"""The configuration of a run, validated when it is read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_serializer, model_validator

from avsl.data.datasets import DATASETS
from avsl.data.splits import SplitConfig
from avsl.data.transforms import AugmentConfig
from avsl.frameworks import FRAMEWORKS
from avsl.models import LocalizerConfig, ObjectPriorConfig
from avsl.models.audio import AudioEncoderConfig
from avsl.models.image import ImageEncoderConfig
from avsl.objectives import OBJECTIVES
from avsl.schema import ConfigError, StrictConfig, lookup
from avsl.tracking.store import TrackingConfig


class SecondStudent(StrictConfig):
    """The encoders in which the second student of a framework with two differs from the first.

    Attributes:
        image: its image encoder; None for the first one's.
        audio: its audio encoder; None for the first one's.
    """

    image: ImageEncoderConfig | None = None
    audio: AudioEncoderConfig | None = None


class ModelSection(LocalizerConfig):
    """A localizer.

    Attributes:
        name: the Hydra choice it comes from.
        second: what the second student has instead (DMT's paper: VGGish and SoundNet audio).
    """

    name: str
    second: SecondStudent = SecondStudent()

    def student(self, k: int) -> LocalizerConfig:
        """The k-th student's localizer."""
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
        labeled_batch_size: how many of them are labeled, where there are unlabeled ones.
        learning_rate: peak of the cosine schedule.
        warmup_share: share of all steps in which the learning rate rises linearly.
        final_lr_share: share of the peak learning rate at which the cosine schedule ends.
        weight_decay: AdamW's, on matrices and kernels.
        gradient_clip: highest norm of each student's gradient; 0 leaves it alone.
        precision: Lightning's name, never chosen by what the machine has.
        accelerator: ``cpu`` or ``gpu``.
        devices: how many of them, on one machine; each is a process that takes an equal share of a step's rows.
            Contrastive negatives are of all of them, batch-norm statistics of each one's own rows; the first one's
            are kept.
        channels_last: memory layout of images and kernels.
        cache_features: compute spectrograms once and keep them in a file beside the prepared set.
        checkpoint_every: steps between checkpoints.
        checkpoint_every_s: seconds after which a checkpoint is written all the same.
        loss_limit: a loss beyond it, on either side of 0, has exploded and counts as not finite.
        non_finite: what becomes of a step whose loss or gradient is NaN or infinite: ``stop`` ends the training,
            ``skip`` changes nothing by it and counts it.
    """

    SPACE: ClassVar[Mapping[str, Any]] = {
        "learning_rate": {"kind": "log", "low": 0.0003, "high": 0.01},
        "weight_decay": {"kind": "log", "low": 0.000001, "high": 0.01},
    }

    name: str = "default"
    epochs: int = Field(16, ge=1)
    batch_size: int = Field(64, ge=2)
    labeled_batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    final_lr_share: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(1.0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    accelerator: Literal["cpu", "gpu"] = "cpu"
    devices: int = Field(1, ge=1)
    channels_last: bool = True
    cache_features: bool = True
    checkpoint_every: int = Field(100, ge=1)
    checkpoint_every_s: float = Field(30.0, ge=0)
    loss_limit: float = Field(1e4, gt=0)
    non_finite: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _labeled_rows_fit(self) -> Self:
        if self.labeled_batch_size >= self.batch_size:
            raise ValueError("labeled_batch_size must be smaller than batch_size")
        if self.batch_size % self.devices or self.labeled_batch_size % self.devices:
            raise ConfigError(
                f"keys 'trainer.batch_size' = {self.batch_size} and 'trainer.labeled_batch_size' = "
                f"{self.labeled_batch_size} must be divisible by 'trainer.devices' = {self.devices}"
            )
        return self


class StartConfig(StrictConfig):
    """The self-supervised training whose weights every framework of a seed starts from.

    Attributes:
        epochs: its passes over the training part; 0 for frameworks that start from the model's initial weights.
    """

    epochs: int = Field(0, ge=0)


class ParallelConfig(StrictConfig):
    """What each of the trainings that run side by side takes, and where they run.

    Attributes:
        cpus: cores of a training, and the threads of its arithmetic: results do not depend on the machine's cores.
        gpus: share of a GPU of a training, with ``trainer.accelerator=gpu``.
        address: of a Ray cluster whose nodes share the project's folder; empty means RAY_ADDRESS, else this machine.
        retries: how often a training whose worker or node has died is started again.
    """

    cpus: float = Field(1, gt=0)
    gpus: float = Field(1, ge=0)
    address: str = ""
    retries: int = Field(1, ge=0)


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


class RegisterConfig(StrictConfig):
    """The choice of a champion.

    Attributes:
        prefer: among methods that are not told apart on validation, the one that costs less to serve (``cost``) or
            the one with the higher mean score (``score``).
    """

    prefer: Literal["cost", "score"] = "cost"


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
        _, model = lookup(name, registry, what)
        for key in section:
            if key != name and key in registry:
                raise ConfigError(f"key '{what}.{key}' needs {what}={key}: the {what} is '{name}'")
            if key not in ("name", name):
                raise ConfigError(f"unknown key '{what}.{key}': allowed are name, {name}")
        return Choice(name=name, settings=model.read(section.get(name) or {}, f"{what}.{name}"))

    return BeforeValidator(read)


class Variant(StrictConfig):
    """Folders apart for what a person asks for with other settings than params.yaml's; empty for the DAG's own.

    Attributes:
        data: of the prepared set.
        split: of the split.
        start: of the start weights.
        train: of the training and all after it.
        keys: the settings that differ.
    """

    data: str = ""
    split: str = ""
    start: str = ""
    train: str = ""
    keys: tuple[str, ...] = ()


# Sections that decide nothing about a training.
_INDECISIVE = {"parallel", "evaluate", "register", "tracking"}

# Pydantic warns that the key hides `ABCMeta.register`, which nothing here calls.
warnings.filterwarnings("ignore", 'Field name "register" in "Config" shadows an attribute')


class Config(StrictConfig):
    """One run's configuration.

    Attributes:
        seed: of the networks' weights, the data order, the augmentation and, without ``split.seed``, the split.
        root: folder of everything that is made.
        data: the data set and its settings.
        split: labeled share and its seed.
        model: the localizer.
        objective: the self-supervised objective and its settings.
        framework: the semi-supervised framework and its settings.
        augment: augmentation.
        start: the self-supervised weights to start from.
        trainer: optimization.
        parallel: resources of the trainings that run side by side.
        evaluate: evaluation.
        register: the choice of a champion.
        tracking: MLflow.
        variant: where the results lie; `avsl.config.compose.compose` fills it.
    """

    seed: int = Field(0, ge=0)
    root: Path = Path("outputs")
    data: Annotated[Choice, _choice(DATASETS, "data")]
    split: SplitConfig
    model: ModelSection
    objective: Annotated[Choice, _choice(OBJECTIVES, "objective")]
    framework: Annotated[Choice, _choice(FRAMEWORKS, "framework")]
    augment: AugmentConfig = AugmentConfig()
    start: StartConfig = StartConfig()
    trainer: TrainerConfig
    parallel: ParallelConfig = ParallelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    register: RegisterConfig = RegisterConfig()
    tracking: TrackingConfig = TrackingConfig()
    variant: Variant = Variant()

    @model_validator(mode="after")
    def _seed_of_split(self) -> Self:
        """The run's seed chooses the labeled rows too, unless ``split.seed`` says otherwise."""
        if self.split.seed is None:
            object.__setattr__(self, "split", self.split.model_copy(update={"seed": self.seed}))
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all settings are the same, wherever the results lie."""
        return isinstance(other, Config) and vars(self) | {"variant": None} == vars(other) | {"variant": None}

    __hash__ = None  # type: ignore[assignment]  # settings hold mappings

    def training_hash(self) -> str:
        """SHA-256 of all that decides a training's result, apart from the data and the code.

        `trainer.non_finite` is no part of it: no checkpoint is written after a step that it decides on unless that step
        was skipped, so what stopped may go on with ``skip``.
        """
        decisive = without_resumable_keys(self.model_dump(mode="json", exclude={"data", *_INDECISIVE}))
        return digest(decisive)

    def variant_of(self, plain: Config) -> Variant:
        """Where this configuration's results lie, where those of ``plain`` lie in the DAG's own folders.

        What is the same in both is shared; which framework, objective, label ratio and seed they are of says the path.
        """
        here, there = (
            without_resumable_keys(config.model_dump(mode="json", exclude=_INDECISIVE)) for config in (self, plain)
        )
        differing = differing_values(here, there)
        names = []
        # The length of the trainings after it decides nothing about the start.
        of_start = ("data", "model", "objective", "augment", "start", "trainer"), {"trainer.epochs"}
        for sections, others in ((("data",), set()), (("data", "split"), set()), of_start, (tuple(here), set())):
            found = {
                key: value
                for key, value in differing.items()
                if key.partition(".")[0] in sections and key not in others
            }
            names.append(digest(found)[:8] if found else "")
        data, split, start, train = names
        return Variant(data=data, split=split, start=start, train=train, keys=tuple(differing))


def without_resumable_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values less what may differ between a training and its continuation."""
    trainer = {key: value for key, value in values["trainer"].items() if key != "non_finite"}
    return {key: value for key, value in values.items() if key not in ("root", "variant")} | {"trainer": trainer}


def differing_values(here: Any, there: Any, key: str = "") -> dict[str, Any]:
    """What ``here`` has other than ``there``, by dotted key; None for what it lacks."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        keys = dict.fromkeys([*here, *there])
        inner = (differing_values(here.get(k), there.get(k), f"{key}.{k}".strip(".")) for k in keys)
        return {name: value for found in inner for name, value in found.items()}
    return {} if here == there else {key: here}


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
