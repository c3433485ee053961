"""What a machine offers: versions, devices, the MLflow store, disk, fonts and FFmpeg."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from avsl import __version__
from avsl.config.compose import compose
from avsl.console import print_table
from avsl.errors import AvslError
from avsl.files import project_root
from avsl.tracking.store import open_store

_PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "lightning", "mlflow", "hydra-core", "dvc", "ray", "optuna")


def doctor(overrides: Sequence[str] = ()) -> int:
    """Print what is there, and what is not with the reason; writes nothing.

    Returns:
        An exit code: 1 where something that every command needs is not usable.
    """
    checks: dict[str, Callable[[], str]] = {
        "avsl": lambda: f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        "packages": _packages,
        "devices": _devices,
        "project": _project,
        "configuration": lambda: _configuration(overrides),
        "MLflow store": lambda: _store(overrides),
        "disk": lambda: f"{shutil.disk_usage(Path.cwd()).free / 1e9:,.1f} GB free in {Path.cwd()}",
        "FFmpeg": _ffmpeg,
        "fonts": _fonts,
    }
    rows, failed = [], False
    for name, check in checks.items():
        try:
            rows.append({"check": name, "state": "ok", "found": check()})
        except (AvslError, ImportError, OSError) as error:
            rows.append({"check": name, "state": "fails", "found": str(error)})
            failed = True
    print_table(rows)
    return int(failed)


def _packages() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def _devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{torch.get_num_threads()} CPU threads; {', '.join(gpus) or 'no GPU'}"


def _project() -> str:
    path = project_root() / "params.yaml"
    return str(path) if path.is_file() else f"no params.yaml in {Path.cwd()} or above it: the defaults apply"


def _configuration(overrides: Sequence[str]) -> str:
    config = compose(overrides)
    names = (config.data.name, config.model.name, config.framework.name, config.objective.name)
    return f"{', '.join(names)}; results in {config.root}"


def _store(overrides: Sequence[str]) -> str:
    config = compose(overrides)
    local = config.root.resolve() / "mlflow" / "mlflow.db"
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not local.is_file() and not uri.startswith(("http://", "https://")):  # opening a database would create it
        return uri or f"none yet: the first training makes {local}"
    return f"{open_store(config.tracking, config.root, writes=False).uri} answers"


def _ffmpeg() -> str:
    import av

    versions = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in sorted(av.library_versions.items()))
    return f"PyAV {av.__version__} with {versions}"


def _fonts() -> str:
    from matplotlib import font_manager

    return font_manager.findfont("DejaVu Sans", fallback_to_default=False)
