"""Reads params.yaml, the hand-owned defaults of every command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from avsl.frameworks import FRAMEWORKS
from avsl.schema import ConfigError, pick

# Hydra groups; each is chosen by name and has its folder in pipelines/conf.
GROUPS = ("data", "model", "objective", "framework", "trainer")


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


def ratio_key(label_ratio: float) -> str:
    """A label ratio as a key of ``tuned``, in per cent: r03 is 0.03, r10 is 0.1, r00_5 is 0.005, r100 is 1.

    DVC takes a dot in a key for a step into a section.
    """
    whole, _, rest = f"{100 * label_ratio:.6g}".partition(".")
    return f"r{whole.zfill(2)}{f'_{rest}' if rest else ''}"


def tuned_values(params: Mapping[str, Any], framework: str, label_ratio: float) -> Mapping[str, Any]:
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


def applicable_values(params: Mapping[str, Any], selected: Mapping[str, str]) -> dict[str, Any]:
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
