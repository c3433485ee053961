"""Plug-ins: modules of a project, named in params.yaml, that add entries to the registries."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avsl.schema import ConfigError

# The project's folder and the source file of each loaded module.
_LOADED: dict[str, tuple[str, Path]] = {}


def plugin_files() -> dict[str, Path]:
    """Return the source files of the loaded modules, by name."""
    return {name: file for name, (_, file) in sorted(_LOADED.items())}


def loaded_plugins() -> list[tuple[str, str]]:
    """Return the name and project folder of each loaded module, for `load_again` in another process."""
    return [(name, folder) for name, (folder, _) in _LOADED.items()]


def load_again(plugins: Iterable[tuple[str, str]]) -> None:
    """Load the modules that another process has loaded.

    Raises:
        ConfigError: a module does not exist; the message names it and the project's folder.
    """
    for name, folder in plugins:
        _load(name, Path(folder))


def load_plugins(params: Mapping[str, Any], project: Path) -> list[str]:
    """Load the modules of params.yaml's list ``plugins``; returns their names.

    A module is a file beside params.yaml (``mine`` for mine.py) or an installed one. It adds entries to registries:
    ``OBJECTIVES["mine"] = (Mine, MineConfig)`` adds an objective.

    Raises:
        ConfigError: ``plugins`` is not a list of module names, or a module does not exist.
    """
    names = params.get("plugins") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{project / 'params.yaml'}: key 'plugins' = {names!r}: a list of module names is needed")
    for name in names:
        _load(name, project.resolve())
    return names


def _load(name: str, folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"{folder / 'params.yaml'}: key 'plugins' names '{name}', but there is no {folder}/{name}.py"
        ) from None
    if module.__file__ is not None:
        _LOADED[name] = str(folder), Path(module.__file__)
