"""Composes one run's configuration: Hydra's groups, params.yaml, an experiment, the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avsl.config.models import Config
from avsl.config.params import GROUPS, applicable_values, conf_folders, ratio_key, read_params
from avsl.config.plugins import load_plugins
from avsl.data.datasets import DATASETS
from avsl.files import project_root
from avsl.frameworks import FRAMEWORKS
from avsl.objectives import OBJECTIVES
from avsl.schema import ConfigError, StrictConfig, lookup
from avsl.storage import is_remote

# Groups whose names need no YAML file, because their defaults are in settings models.
_REGISTRIES: Mapping[str, Mapping[str, tuple[Any, type[StrictConfig]]]] = {
    "data": DATASETS,
    "objective": OBJECTIVES,
    "framework": FRAMEWORKS,
}

# Settings that the path of a result contains.
_CELL = {"framework", "objective", "split.label_ratio", "seed"}

# Settings of a model whose change makes other settings obsolete.
_REPLACING = re.compile(r"model\..*\b(backbone|kind)")

# Hydra keeps its state in globals.
_HYDRA = threading.Lock()

# The latest compositions by all that decides them: Hydra takes 0.1 s for each, and a command repeats some.
_COMPOSED: dict[str, DictConfig] = {}
_KEPT = 64


def compose(overrides: Sequence[str] = (), project: Path | None = None) -> Config:
    """Compose a configuration; stages, commands and sweeps use this function, so equal requests give equal results.

    Hydra composes the files of `conf_folders`; params.yaml selects a name of each group and sets values; ``overrides``
    come last. Values that params.yaml sets for a name (``framework.dmt``) apply only if that name is selected. Its
    section ``tuned`` holds the results of sweeps, such as ``tuned.dmt.r03`` for DMT at a ratio of 0.03, which override
    its other sections. If params.yaml or an override replaces a backbone or a kind of audio encoder, the arguments of
    the previous one are left out. If settings differ from params.yaml's and ``overrides`` set no ``root``, the
    configuration's `Variant` separates the results from the folders that the DAG's stages write.

    Args:
        overrides: Hydra overrides (``framework=dmt``, ``split.label_ratio=0.1``).
        project: the folder with params.yaml; found from the working directory by default.

    Raises:
        ConfigError: an override or params.yaml has an unknown key or name, or a value out of range.
    """
    project = project or project_root()
    overrides, parsed = parse_overrides(overrides)
    config = _compose(overrides, project)
    keys = {override.key_or_group for override in parsed}
    if keys <= _CELL or "root" in keys or "DVC_STAGE" in os.environ:
        return config
    names = {"framework": config.framework.name, "objective": config.objective.name}
    cell = names | {"split.label_ratio": config.split.label_ratio, "seed": config.seed}
    try:
        plain = _compose([as_override(key, value) for key, value in cell.items()], project)
    except ConfigError:  # params.yaml is incomplete without the overrides, so the DAG has no results
        return config
    if plain.data.name != config.data.name:
        return config
    return config.model_copy(update={"variant": config.variant_of(plain)})


def _compose(overrides: Sequence[str], project: Path) -> Config:
    params = _read_project(project)
    try:
        selected = _selected_names(project, params, overrides)
        values = applicable_values(params, selected)
        overrides = [*_replaced_arguments(project, params, values, overrides), *overrides]
        tree = _hydra(project, params, values, overrides)
        if tuned := _tuned_values(params, selected["framework"], tree.split.label_ratio):
            laid_over = OmegaConf.to_container(OmegaConf.merge(values, tuned))
            tree = _hydra(project, params, cast("dict[str, Any]", laid_over), overrides)
        return _from_project(Config.read(_plain(tree), ""), project)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _selected_names(project: Path, params: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Return the name of each group that params.yaml, an experiment or an override selects."""
    typed = {override.key_or_group: override.value() for override in parse_overrides(overrides)[1]}
    if "experiment" in typed:  # it may select names itself
        tree = _hydra(project, params, {}, overrides)
        return {group: str(tree[group]["name"]) for group in GROUPS}
    return {group: str(typed.get(f"{group}.name", typed.get(group, params[group]["name"]))) for group in GROUPS}


def _from_project(config: Config, project: Path) -> Config:
    """Make relative paths of outputs and data set relative to the project's folder, not to the working directory."""
    if project.resolve() == Path.cwd().resolve():
        return config
    data, root = config.data.settings, getattr(config.data.settings, "root", "")
    if root and not is_remote(root):
        data = data.model_copy(update={"root": str(project / root)})
    return config.model_copy(
        update={"root": project / config.root, "data": config.data.model_copy(update={"settings": data})}
    )


def compose_group(group: str, name: str, overrides: Sequence[str], project: Path) -> dict[str, Any]:
    """Compose a single Hydra group that is not part of a run's configuration.

    Args:
        group: the group's folder in conf/, its section, and the prefix of its keys in ``overrides``.
        name: a name of the group.
        overrides: overrides of the group's values.
        project: the folder with params.yaml.

    Returns:
        The section as plain values, not validated.

    Raises:
        ConfigError: the group has no such name, or an override cannot be read.
    """
    _read_project(project)
    lookup(name, _names(group, project), group)
    forced = [text if text.startswith(("+", "~")) else f"++{text}" for text in parse_overrides(overrides)[0]]
    try:
        section = _plain(_compose_with(project, [{group: name}, "_self_"], {}, forced))[group]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    if not isinstance(section, dict):
        raise ConfigError(f"key '{group}' is not a section")
    return section


def parse_overrides(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Parse overrides with Hydra; returns them as texts and parsed.

    A value that Hydra's grammar refuses (spaces beside umlauts, ``=``, brackets, a quote) is quoted, so that it stands
    for the typed text.

    Raises:
        ConfigError: a text is not an override.
    """
    parser = OverridesParser.create()
    texts, parsed = [], []
    for text in overrides:
        key, sign, value = text.partition("=")
        try:
            found = parser.parse_override(text)
        except HydraException:
            if not sign or not re.fullmatch(r"[+~]{0,2}[\w./@]+", key) or value.startswith(("[", "{", "'", '"')):
                quoted = "KEY='VALUE'"
                raise ConfigError(f"override {text!r} cannot be read: write KEY=VALUE, or {quoted} to quote") from None
            text = as_override(key, value)
            found = parser.parse_override(text)
        texts.append(text)
        parsed.append(found)
    return texts, parsed


def as_override(key: str, value: Any) -> str:
    """Write ``key=value`` such that Hydra reads exactly this value."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"[A-Za-z_][\w./:+-]*", value) and value.lower() not in ("true", "false", "null", "inf", "nan"):
        return f"{key}={value}"
    # Within quotes a backslash is literal, except before a quote.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
    escaped = doubled.replace("'", r"\'")
    return f"{key}='{escaped}'"


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of a section with their dotted keys."""
    if isinstance(value, Mapping):
        for inner, what in value.items():
            yield from leaves(f"{key}.{inner}", what)
    else:
        yield key, value


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is not a mapping")
    return {str(key): value for key, value in plain.items()}


def _tuned_values(params: Mapping[str, Any], framework: str, label_ratio: float) -> Mapping[str, Any]:
    """Return the result of a sweep for this framework and ratio, as sections of params.yaml."""
    tuned = params.get("tuned") or {}
    for name, ratios in tuned.items():
        lookup(name, FRAMEWORKS, "framework in params.yaml's section 'tuned':")
        for key in ratios or {}:
            number = str(key).removeprefix("r").replace("_", ".")
            if not re.fullmatch(r"\d+(\.\d+)?", number) or ratio_key(float(number) / 100) != key:
                raise ConfigError(f"unknown key 'tuned.{name}.{key}': allowed are label ratios, as r03 for 0.03")
    if isinstance(label_ratio, str):  # the validation of the configuration refuses it
        return {}
    found: Mapping[str, Any] = (tuned.get(framework) or {}).get(ratio_key(label_ratio)) or {}
    return found


def _hydra(project: Path, params: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Compose groups, config.yaml, ``values``, an experiment and ``overrides``; later ones override earlier ones."""
    overrides, parsed = parse_overrides(overrides)
    for text, override in zip(overrides, parsed, strict=True):
        if override.is_sweep_override():
            key, _, value = text.partition("=")
            quoted = shlex.quote(as_override(key, value))
            raise ConfigError(
                f"'{text}' gives several values where a run takes one; one value with a comma is {quoted}"
            )
    # Hydra knows only the keys in its files, so every override may add a key; the settings models refuse unknown ones.
    wanted = [
        text if text.startswith(("+", "~")) or o.key_or_group in (*GROUPS, "experiment") else f"++{text}"
        for text, o in zip(overrides, parsed, strict=True)
    ]
    choices = [(group, params[group]["name"]) for group in GROUPS]
    choices += [(o.key_or_group, o.value()) for o in parsed if o.key_or_group in (*GROUPS, "experiment")]
    for group, name in choices:
        lookup(str(name), _names(group, project), group)
    groups = [{group: params[group]["name"]} for group in GROUPS]
    defaults = [*groups, "config", "params", {"optional experiment": None}, "_self_"]
    return _compose_with(project, defaults, values, wanted)


def _read_project(project: Path) -> dict[str, Any]:
    """Read params.yaml and load the project's plug-ins."""
    params = read_params(project)
    load_plugins(params, project)
    return params


def _names(group: str, project: Path) -> dict[str, None]:
    """Return the names of a group: its files in conf/ and the entries of its registry."""
    files = {path.stem for folder in conf_folders(project) for path in (folder / group).glob("*.yaml")}
    return dict.fromkeys(files | set(_REGISTRIES.get(group, {})))


def _replaced_arguments(
    project: Path, params: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str]
) -> list[str]:
    """Return overrides that delete the arguments of a replaced backbone or kind of audio encoder.

    ``values``, which may have arguments of the new one, or ``overrides`` replace it.
    """
    parsed = list(zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True))
    typed = {o.key_or_group: o.value() for _, o in parsed if _REPLACING.fullmatch(o.key_or_group)}
    stated = dict(leaves("model", values.get("model") or {}))
    written = {key: value for key, value in stated.items() if _REPLACING.fullmatch(key)}
    if not typed and not written:
        return []
    groups = [text for text, o in parsed if o.key_or_group in (*GROUPS, "experiment")]
    by_command = _belonging(typed, _hydra(project, params, values, groups))
    by_file = _belonging(written, _hydra(project, params, {}, groups)) if written else []
    found = [f"~{inner}" for inner in by_command]
    for inner in by_file:
        if not any(f"{inner}.".startswith(f"{other}.") for other in by_command):
            kept = [as_override(key, value) for key, value in stated.items() if key.startswith(f"{inner}.")]
            found += [f"~{inner}", *(f"++{text}" for text in kept)]
    return found


def _belonging(chosen: Mapping[str, Any], before: DictConfig) -> list[str]:
    """Return the sections of a tree that belong to backbones and kinds other than the ``chosen`` ones."""
    found: list[str] = []
    for key in sorted(chosen, reverse=True):  # an encoder's kind comes before its backbone
        section, _, setting = key.rpartition(".")
        inner = section if setting == "kind" else f"{section}.backbone_args"
        default = "spectrogram" if setting == "kind" else None
        changed = OmegaConf.select(before, key, default=default) != chosen[key]
        if changed and section not in found and OmegaConf.select(before, inner) is not None:
            found.append(inner)
    return found


def _compose_with(
    project: Path, defaults: Sequence[Any], values: Mapping[str, Any], overrides: Sequence[str]
) -> DictConfig:
    """Compose a defaults list with Hydra, from any thread; ``params`` in the list stands for ``values``.

    Callers must not change the returned tree.
    """
    first, *others = folders = [folder.resolve() for folder in conf_folders(project)]
    nodes = {
        (group, name): {"name": name, name: dict(model.LINKS)}
        for group, registry in _REGISTRIES.items()
        for name, (_, model) in registry.items()
    }
    files = [
        [(path.relative_to(folder), path.read_bytes()) for path in sorted(folder.rglob("*.yaml"))] for folder in folders
    ]
    key = repr((files, nodes, list(defaults), dict(values), list(overrides)))
    with _HYDRA:
        if key not in _COMPOSED:
            store = ConfigStore.instance()
            for (group, name), node in nodes.items():
                store.store(group=group, name=name, node=node)
            store.store(name="params", node=dict(values), package="_global_")
            searched = {"searchpath": [f"file://{folder}" for folder in others]}
            store.store(name="run", node={"defaults": list(defaults), "hydra": searched})
            with initialize_config_dir(str(first), version_base="1.3"):
                composed = hydra_compose("run", list(overrides))
            if len(_COMPOSED) == _KEPT:
                del _COMPOSED[next(iter(_COMPOSED))]
            _COMPOSED[key] = composed
        return _COMPOSED[key]
