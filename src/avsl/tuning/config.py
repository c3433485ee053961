"""The settings of a sweep (section ``tune``) and the configuration that its trials change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from avsl.config.compose import as_override, compose, compose_group, leaves, parse_overrides
from avsl.config.models import Config, Variant
from avsl.files import project_root
from avsl.frameworks import FRAMEWORKS
from avsl.schema import ConfigError, StrictConfig, lookup
from avsl.storage import is_remote
from avsl.tuning.space import COMMON, Dimension, Value, read_spaces

_SECONDS = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: Any) -> Any:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?", str(text))
    return text if found is None else float(found[1]) * _SECONDS[found[2] or ""]


class TrialResources(StrictConfig):
    """The resources of a node that one trial occupies.

    Attributes:
        cpu: number of cores, and of threads for arithmetic.
        gpu: number of GPUs or share of one; 0.25 puts four trials on a GPU. Above 0, trials train on the GPU
            (``trainer.accelerator=gpu``) unless the command line sets another accelerator.
    """

    cpu: float = Field(1, gt=0)
    gpu: float = Field(0, ge=0)


class ASHAConfig(StrictConfig):
    """Asynchronous successive halving (ASHA; Li et al., MLSys 2020, arXiv 1810.05934) stops poor trials early.

    Attributes:
        grace: epochs between the longest warm-up and the first rung; pseudo-labels have no effect before.
        reduction: at each rung (the first epoch, times ``reduction``, times its square …) the best 1/``reduction``
            continue.
    """

    grace: int = Field(1, ge=1)
    reduction: float = Field(3, gt=1)


class TuneConfig(StrictConfig):
    """Settings of a sweep.

    Attributes:
        name: the name of the Hydra file with these settings.
        frameworks: the frameworks that compete.
        trials: the number of trials at each label ratio, failed ones included.
        time_budget: seconds for the search at each label ratio; ``2h`` and ``30min`` work too. None sets no limit.
        concurrency: the number of trials that run at the same time; None fills the resources of the cluster.
        resources: the resources of a trial.
        retries: how often a trial is restarted after its worker or node has died.
        confirm: how many of the best trials are trained with the other seeds of ``matrix.seeds`` too; the winner has
            the best mean. 0 keeps the scores of the search.
        seed: the seed of the sampler.
        sampler: Optuna's TPE, or ``random``.
        startup: the number of trials, defaults included, before TPE learns from them.
        scheduler: stops poor trials early; None stops none.
        spaces: changes to the search spaces, of all frameworks (``common``) and of each; see
            `avsl.tuning.space.read_spaces`.
        settings: sections that replace those of params.yaml in the sweep alone; those of data sets, objectives and
            frameworks that are not selected are ignored.
        address: the address of a Ray cluster; empty means RAY_ADDRESS, else this machine.
        resume: whether to resume the search in ``storage``.
        apply: whether to write the winner into params.yaml.
        storage: the folder of the search, visible to all nodes; empty means ``<root>/sweep/<name>``.
        results: an ``s3://`` address that receives the results at the end of a session; empty for none.
    """

    name: str
    frameworks: tuple[str, ...] = Field(("dmt", "xpl"), min_length=1)
    trials: int = Field(64, ge=1)
    time_budget: Annotated[float | None, BeforeValidator(_seconds)] = Field(None, gt=0)
    concurrency: int | None = Field(None, ge=1)
    resources: TrialResources = TrialResources()
    retries: int = Field(2, ge=0)
    confirm: int = Field(3, ge=0)
    seed: int = Field(0, ge=0)
    sampler: Literal["tpe", "random"] = "tpe"
    startup: int = Field(10, ge=1)
    scheduler: ASHAConfig | None = ASHAConfig()
    spaces: Annotated[dict[str, dict[str, Dimension]], BeforeValidator(read_spaces)] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    address: str = ""
    resume: bool = False
    apply: bool = False
    storage: str = ""
    results: str = ""

    @model_validator(mode="after")
    def _check_locations(self) -> Self:
        if is_remote(self.storage):
            raise ConfigError(
                f"key 'tune.storage' = '{self.storage}': a search's SQLite file and checkpoints need a folder that all"
                " nodes see; tune.results takes an s3:// address for the results"
            )
        if self.results and not is_remote(self.results):
            raise ConfigError(
                f"key 'tune.results' = '{self.results}': an s3:// address is needed; tune.storage is a folder"
            )
        return self


@dataclass(frozen=True)
class Request:
    """The search at one label ratio.

    Attributes:
        tune: the settings of the sweep.
        label_ratio: the label ratio, in [0, 1].
        settings: the sweep's ``settings`` as overrides; they change the defaults that a search starts from.
        overrides: the command line's overrides except ``tune``, framework and label ratio; their keys are not searched.
        project: the folder with params.yaml.
    """

    tune: TuneConfig
    label_ratio: float
    settings: tuple[str, ...]
    overrides: tuple[str, ...]
    project: Path

    def base(self, framework: str) -> list[str]:
        """Return the overrides that all trials of a framework share."""
        aside = tuple(f"framework.{name}." for name in self.tune.frameworks if name != framework)
        kept = [text for text in (*self.settings, *self.overrides) if not text.lstrip("+~").startswith(aside)]
        return [*kept, f"framework={framework}", f"split.label_ratio={self.label_ratio}"]

    def space(self, framework: str) -> dict[str, Dimension]:
        """Return the search space of a framework without the keys that the command line fixes."""
        space = self.tune.spaces.get(COMMON, {}) | self.tune.spaces.get(framework, {})
        fixed = {text.lstrip("+~").partition("=")[0] for text in self.overrides}
        return {key: dimension for key, dimension in space.items() if key not in fixed}

    def searched(self, framework: str, values: Mapping[str, Value]) -> list[str]:
        """Return the overrides that reproduce a trial."""
        return [*self.base(framework), *(as_override(key, value) for key, value in values.items())]

    def config(self, framework: str, values: Mapping[str, Value]) -> Config:
        """Return the configuration of a trial; without values, the default configuration."""
        # A search has separate folders, so a variant's folder name is not needed.
        return compose(self.searched(framework, values), self.project).model_copy(update={"variant": Variant()})

    def defaults(self, framework: str) -> dict[str, Value]:
        """Return the default values of the searched keys.

        Raises:
            ConfigError: the configuration lacks a key, refuses an end of a range, or has a default outside a range.
        """
        space = self.space(framework)
        plain = self.config(framework, {}).model_dump(mode="json")
        found: dict[str, Value] = {}
        for key in space:
            node: Any = plain
            for part in key.split("."):
                if not isinstance(node, Mapping) or part not in node:
                    raise ConfigError(f"tune.spaces searches '{key}', which {framework}'s configuration does not have")
                node = node[part]
            found[key] = node
        ends = {key: dimension.ends() for key, dimension in space.items()}
        for k in range(max(map(len, ends.values()), default=0)):
            self.config(framework, {key: values[min(k, len(values) - 1)] for key, values in ends.items()})
        for key, dimension in space.items():
            if not dimension.holds(found[key]):
                raise ConfigError(
                    f"tune.spaces leaves out {key} = {found[key]}, the default of {framework} that a search starts from"
                )
        return found


def read_requests(overrides: Sequence[str], project: Path | None = None) -> list[Request]:
    """Read a command line into searches, one for each label ratio.

    ``tune=full tune.trials=8`` configure the sweep; ``framework=xpl`` or ``framework=dmt,xpl`` select the frameworks;
    ``split.label_ratio=0.01,0.03`` requests two searches; all other overrides configure the trials.

    Raises:
        ConfigError: a key is unknown, a value is out of range, or a space does not fit the configuration.
    """
    project = project or project_root()
    overrides, parsed = parse_overrides(overrides)
    name, own, rest = "demo", [], []
    several: dict[str, list[str]] = {"framework": [], "split.label_ratio": []}
    for text, override in zip(overrides, parsed, strict=True):
        key = override.key_or_group
        if key == "tune":
            name = str(override.value())
        elif key.startswith("tune."):
            own.append(text)
        elif key in several:
            several[key] = list(override.sweep_string_iterator() if override.is_sweep_override() else [text])
        else:
            rest.append(text)
    section = compose_group("tune", name, own, project)
    if several["framework"]:
        section["frameworks"] = [text.rpartition("=")[2] for text in several["framework"]]
    tune = TuneConfig.read(section, "tune")
    for framework in tune.frameworks:
        lookup(framework, FRAMEWORKS, "framework")
    # Trials that occupy a GPU train on it.
    accelerator = ("trainer.accelerator=gpu",) if tune.resources.gpu else ()
    requests = []
    for ratio in several["split.label_ratio"] or [""]:
        stated = [f"split.label_ratio={ratio.rpartition('=')[2]}"] if ratio else []
        plain = compose([*(text for text in rest if not text.lstrip("+~").startswith("framework.")), *stated], project)
        made = {"data": [plain.data.name], "objective": [plain.objective.name], "framework": tune.frameworks}
        settings = (*accelerator, *_stated(tune.settings, made))
        requests.append(Request(tune, plain.split.label_ratio, settings, tuple(rest), project))
    for key, values in (("framework", tune.frameworks), ("split.label_ratio", [r.label_ratio for r in requests])):
        if twice := [value for k, value in enumerate(values) if value in values[:k]]:
            raise ConfigError(f"key '{key}' asks for {twice[0]} twice")
    return requests


def _stated(settings: Mapping[str, Any], made: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield sections as overrides; ``made`` lists the names selected in each section, others are left out."""
    for section, values in settings.items():
        for key, value in values.items():
            if section not in made or key in made[section]:
                for name, leaf in leaves(f"{section}.{key}", value):
                    yield as_override(name, leaf)
