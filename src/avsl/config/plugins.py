"""A project's own methods: modules that params.yaml names, which add entries to the registries."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsl.schema import ConfigError

_LOADED: dict[str, Path] = {}


def plugin_files() -> dict[str, Path]:
    """The source files of the modules that have been loaded, by name."""
    return dict(sorted(_LOADED.items()))


def load_plugins(params: Mapping[str, Any], project: Path) -> list[str]:
    """Import the modules of params.yaml's list ``plugins``, once a process; returns their names.

    A module is a file beside params.yaml (``mine`` for mine.py) or an installed one. What it does is for it to say:
    ``OBJECTIVES["mine"] = (Mine, MineConfig)`` adds an objective.

    Raises:
        ConfigError: ``plugins`` is no list of module names, or there is no such module.
    """
    names = params.get("plugins") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{project / 'params.yaml'}: key 'plugins' = {names!r}: a list of module names is needed")
    folder = str(project.resolve())
    if names and folder not in sys.path:
        sys.path.append(folder)
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ConfigError(
                f"{project / 'params.yaml'}: key 'plugins' names '{name}', but there is no {folder}/{name}.py"
            ) from None
        if module.__file__ is not None:
            _LOADED[name] = Path(module.__file__)
    return names
