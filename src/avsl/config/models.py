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
from avsl.schema import ConfigError, Steps, StrictConfig, lookup
from avsl.tracking.store import TrackingConfig


class SecondStudent(StrictConfig):
    """Encoders of the second student, in a framework with two students.

    Attributes:
        image: image encoder; None for that of the first student.
        audio: audio encoder; None for that of the first student.
    """

    image: ImageEncoderConfig | None = None
    audio: AudioEncoderConfig | None = None


class ModelSection(LocalizerConfig):
    """A localizer.

    Attributes:
        name: the name of the Hydra file with these settings.
        second: encoders of the second student (in DMT's paper: VGGish and SoundNet for audio).
        cache_frozen: keep what frozen networks compute of every clip beside the prepared set. Where all image networks
            are frozen, the frame and its mirror image are then the only views; sounds of a frozen network have no
            SpecAugment. Dropout remains.
    """

    name: str
    cache_frozen: bool = False
    second: SecondStudent = SecondStudent()

    def student(self, k: int) -> LocalizerConfig:
        """Return the configuration of the k-th student."""
        fields = {name: getattr(self, name) for name in LocalizerConfig.model_fields}
        if k:
            fields |= {name: encoder for name, encoder in self.second if encoder is not None}
        return LocalizerConfig(**fields)


class TrainerConfig(StrictConfig):
    """Settings of a training.

    Attributes:
        name: the name of the Hydra file with these settings.
        epochs: number of epochs; in each, as many rows are drawn as the training part has.
        batch_size: rows of a step, on all devices together.
        labeled_batch_size: labeled rows of a step if there are unlabeled ones too.
        learning_rate: peak of the cosine schedule.
        trunk_lr_scale: learning rate of the encoders' trunks, as a multiple of that of the layers on them; pretrained
            trunks want a lower one.
        freeze_trunk: steps in which the trunks are not trained yet and stay in evaluation mode; below 1 a share of the
            training.
        warmup_share: share of all steps in which the learning rate rises linearly.
        final_lr_share: share of the peak learning rate at which the cosine schedule ends.
        average_half_life: steps after which a network's weight in its exported average has halved; below 1 a share of
            the training; 0 exports the last weights. Teachers and momentum encoders are averages already.
        weight_decay: weight decay of AdamW, on matrices and kernels.
        gradient_clip: largest norm of each student's gradient; 0 disables clipping.
        precision: Lightning's name of the precision; it never depends on the machine.
        accelerator: ``cpu`` or ``gpu``.
        devices: number of devices, on one machine; each is a process with an equal share of a step's rows. Contrastive
            negatives are the rows of all processes; batch-norm statistics are those of a process's own rows, and the
            first process's are exported.
        channels_last: memory layout of images and kernels.
        cache_features: compute spectrograms once and store them in a file beside the prepared set.
        checkpoint_every: steps between checkpoints.
        checkpoint_every_s: longest time between checkpoints, in seconds.
        loss_limit: a loss with a larger absolute value counts as not finite.
        non_finite: how to handle a step with a NaN or infinite loss or gradient: ``stop`` ends the training, ``skip``
            leaves the step out and counts it.
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
    trunk_lr_scale: float = Field(1.0, gt=0)
    freeze_trunk: Steps = 0
    warmup_share: float = Field(0.05, ge=0, lt=1)
    final_lr_share: float = Field(0.0, ge=0, le=1)
    average_half_life: Steps = 0.04
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
    """The self-supervised training whose weights all frameworks of a seed start from.

    Attributes:
        epochs: its number of epochs; with 0 frameworks start from the model's initial weights.
    """

    epochs: int = Field(0, ge=0)


class ParallelConfig(StrictConfig):
    """Resources of each of several simultaneous trainings.

    Attributes:
        cpus: cores of a training, and threads of its arithmetic, so that results do not depend on the machine's cores;
            the last trainings of a step share cores that would idle.
        gpus: GPUs of a training, or a share of one, with ``trainer.accelerator=gpu``.
        address: the address of a Ray cluster whose nodes share the project's folder; empty means RAY_ADDRESS, else this
            machine.
        retries: how often a training is restarted after its worker or node has died.
    """

    cpus: float = Field(1, gt=0)
    gpus: float = Field(1, ge=0)
    address: str = ""
    retries: int = Field(1, ge=0)


class EvaluateConfig(StrictConfig):
    """Settings of an evaluation.

    Attributes:
        batch_size: rows in a batch.
        gallery: number of validation clips in the gallery.
        ogl: object prior; the model is scored with it in addition to alone. None disables it.
    """

    batch_size: int = Field(100, ge=1)
    gallery: int = Field(16, ge=1, le=200)
    ogl: ObjectPriorConfig | None = None


class RegisterConfig(StrictConfig):
    """The choice of a champion.

    Attributes:
        prefer: which of the methods without a significant difference on validation becomes champion: the one that
            costs less to serve (``cost``) or the one with the higher mean score (``score``).
    """

    prefer: Literal["cost", "score"] = "cost"


class Choice(StrictConfig):
    """A section of the form ``{name: X, X: {…}}``, whose inner part X's settings model validates."""

    name: str
    settings: SerializeAsAny[StrictConfig]

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return {"name": self.name, self.name: self.settings.model_dump(mode="json")}


def _choice(registry: Mapping[str, tuple[Any, type[StrictConfig]]], what: str) -> BeforeValidator:
    """Make a validator that reads a section with a name of ``registry``."""

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
    """Names of separate folders for results of settings other than params.yaml's; empty for the DAG's folders.

    Attributes:
        data: folder name of the prepared set.
        split: folder name of the split.
        start: folder name of the start weights.
        train: folder name of the training and all later steps.
        keys: the settings that differ.
    """

    data: str = ""
    split: str = ""
    start: str = ""
    train: str = ""
    keys: tuple[str, ...] = ()


# Sections that do not affect a training's result.
INDECISIVE = {"parallel", "evaluate", "register", "tracking"}

# Pydantic warns that the key hides `ABCMeta.register`, which nothing here calls.
warnings.filterwarnings("ignore", 'Field name "register" in "Config" shadows an attribute')


class Config(StrictConfig):
    """The configuration of a run.

    Attributes:
        seed: seed of the networks' weights, the data order, the augmentation and, without ``split.seed``, the split.
        root: folder of all outputs.
        data: the data set and its settings.
        split: labeled share and its seed.
        model: the localizer.
        objective: the self-supervised objective and its settings.
        framework: the semi-supervised framework and its settings.
        augment: augmentation.
        start: the self-supervised weights to start from.
        trainer: optimization.
        parallel: resources of each of several simultaneous trainings.
        evaluate: evaluation.
        register: the choice of a champion.
        tracking: MLflow.
        variant: names of separate folders; `avsl.config.compose.compose` sets it.
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
        """Use the run's seed for the split if ``split.seed`` is not set."""
        if self.split.seed is None:
            object.__setattr__(self, "split", self.split.model_copy(update={"seed": self.seed}))
        return self

    def __eq__(self, other: object) -> bool:
        """Return whether all settings but ``variant`` are equal."""
        return isinstance(other, Config) and vars(self) | {"variant": None} == vars(other) | {"variant": None}

    __hash__ = None  # type: ignore[assignment]  # settings hold mappings

    def training_hash(self) -> str:
        """Return the SHA-256 of all settings that affect a training's result, except those of the data.

        It leaves out ``trainer.non_finite``, because a training that stopped may continue with ``skip``: no checkpoint
        is written after a step that is not finite, unless that step was skipped.
        """
        decisive = without_resumable_keys(self.model_dump(mode="json", exclude={"data", *INDECISIVE}))
        return digest(decisive)

    def variant_of(self, plain: Config) -> Variant:
        """Return the folder names of this configuration's results, if those of ``plain`` lie in the DAG's folders.

        Results that do not depend on the differing settings are shared. Framework, objective, label ratio and seed are
        not compared, because paths contain them.
        """
        own, of_dag = (
            without_resumable_keys(config.model_dump(mode="json", exclude=INDECISIVE)) for config in (self, plain)
        )
        differing = differing_values(own, of_dag)
        names = []
        # The start does not depend on the number of epochs of the later trainings.
        of_start = ("data", "model", "objective", "augment", "start", "trainer"), {"trainer.epochs"}
        for sections, others in ((("data",), set()), (("data", "split"), set()), of_start, (tuple(own), set())):
            found = {
                key: value
                for key, value in differing.items()
                if key.partition(".")[0] in sections and key not in others
            }
            names.append(digest(found)[:8] if found else "")
        data, split, start, train = names
        return Variant(data=data, split=split, start=start, train=train, keys=tuple(differing))


def without_resumable_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values without those that may differ when a training is resumed."""
    trainer = {key: value for key, value in values["trainer"].items() if key != "non_finite"}
    return {key: value for key, value in values.items() if key not in ("root", "variant")} | {"trainer": trainer}


def differing_values(values: Any, others: Any, key: str = "") -> dict[str, Any]:
    """Return the values that differ from ``others``, by dotted key; None for a missing one."""
    if isinstance(values, Mapping) and isinstance(others, Mapping):
        keys = dict.fromkeys([*values, *others])
        inner = (differing_values(values.get(k), others.get(k), f"{key}.{k}".strip(".")) for k in keys)
        return {name: value for found in inner for name, value in found.items()}
    return {} if values == others else {key: values}


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, independent of the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
