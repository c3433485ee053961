"""Reads params.yaml, the hand-owned defaults of every command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from avsl.schema import ConfigError

# Hydra groups, and the name that each has where params.yaml has no such section.
GROUPS = {
    "data": "synthetic",
    "model": "tiny",
    "objective": "ezvsl",
    "framework": "dmt",
    "trainer": "default",
}
# The package's own configuration files.
CONF = Path(__file__).parent / "conf"


def conf_folders(project: Path) -> list[Path]:
    """Return the folders of configuration files: ``conf`` beside params.yaml if it exists, and the package's."""
    own = project / "conf"
    return [own, CONF] if own.is_dir() else [CONF]


def ratio_key(label_ratio: float) -> str:
    """Return the key of a label ratio in ``tuned``, in percent: r03 is 0.03, r10 is 0.1, r00_5 is 0.005, r100 is 1.

    The key has no dot, because DVC reads one as a separator of sections.
    """
    whole, _, rest = f"{100 * label_ratio:.6g}".partition(".")
    return f"r{whole.zfill(2)}{f'_{rest}' if rest else ''}"


def read_params(project: Path) -> dict[str, Any]:
    """Read params.yaml, with a name for each of `GROUPS`; a project without the file has the defaults.

    Raises:
        ConfigError: the file is not YAML or not a mapping, or a group's section has no name.
    """
    path = project / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path} is not a mapping of sections")
    for key in ("ratios", "ceilings"):
        for ratio in (params.get("matrix") or {}).get(key) or []:
            if str(float(ratio)) != str(ratio):
                raise ConfigError(f"{path}: key 'matrix.{key}' holds {ratio}: write {float(ratio)}, as files are named")
    for group, default in GROUPS.items():
        section = params.setdefault(group, {"name": default})
        if not isinstance(section, dict) or "name" not in section:
            raise ConfigError(f"{path}: key '{group}.name' is required")
    return params


def matrix_seeds(project: Path) -> list[int]:
    """Return the seeds of the DAG's trainings: ``matrix.seeds`` of params.yaml, or ``seed`` if there are none.

    Raises:
        ConfigError: the seeds are not distinct integers of at least 0.
    """
    params = read_params(project)
    seeds = (params.get("matrix") or {}).get("seeds", [params.get("seed", 0)])
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"{project / 'params.yaml'}: key 'matrix.seeds' = {seeds}: different whole numbers from 0 on are allowed, "
            "such as [0, 1, 2]"
        )
    return list(seeds)


def applicable_values(params: Mapping[str, Any], selected: Mapping[str, str]) -> dict[str, Any]:
    """Return params.yaml's values without those of names that are not selected."""
    values: dict[str, Any] = {}
    for section, value in params.items():
        if section in ("matrix", "plugins", "tuned"):  # the DAG's stages; modules; what is laid over the rest
            continue
        if section in ("model", "trainer"):
            values[section] = value if selected[section] == value["name"] else {}
        elif section in GROUPS:
            values[section] = {key: inner for key, inner in value.items() if key == selected[section]}
        else:
            values[section] = value
    return values
