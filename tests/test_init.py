"""The public root, and what the package needs without its extras."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import avsl
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.schema import ConfigError

# What stands under a distribution's name in pyproject.toml, where that is not the module's name.
_MODULES = {"hydra-core": "hydra", "dvc-s3": "dvc_s3", "pyyaml": "yaml", "ruamel.yaml": "ruamel"}
# Imports every module of the method and inference packages where nothing but the core can be found.
_IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class CoreAlone(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):
        found = super().find_distributions(context)
        return (one for one in found if one.metadata["Name"].lower() not in {absent})

sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not PathFinder] + [CoreAlone]
for package in ("functional", "objectives", "frameworks", "models", "metrics", "inference"):
    found = importlib.import_module("avsl." + package)
    for module in pkgutil.walk_packages(found.__path__, found.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_methods_and_inference_need_the_core_alone() -> None:
    """Every module imports where the packages of the extras [workflow], [tune] and [serve] are absent."""
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {
        re.split(r"[\[<>=]", text)[0]
        for extra in ("workflow", "tune", "serve")
        for text in extras["optional-dependencies"][extra]
    }
    absent = {_MODULES.get(name, name) for name in names - {"avsl"}}
    assert {"lightning", "hydra", "mlflow", "ray", "dvc", "boto3"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL.replace("{absent}", repr(absent))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"avsl.frameworks.dmt", "avsl.objectives.ezvsl", "avsl.inference.predictor"} <= set(done.stdout.split())


def test_a_folder_is_loaded_and_predicts(tmp_path: Path, tiny: LocalizerConfig) -> None:
    """A map of each frame's size; a folder without a model is named."""
    description = ExportedModel(members=[tiny], image_size=32, sample_rate=16000, duration_s=0.25, threshold=0.3)
    torch.manual_seed(0)
    save_exported(tmp_path / "model", LocalizerEnsemble([Localizer(tiny)]), description)
    frame = np.zeros((20, 30, 3), np.uint8)
    (found,) = avsl.load_model(tmp_path / "model").predict([frame], [np.ones(4000, np.float32)])
    assert found.map.shape == (20, 30)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        avsl.load_model(tmp_path)


def test_methods_are_listed_by_kind() -> None:
    """Every registry, by the names that the configuration takes."""
    methods = avsl.list_methods()
    assert "dmt" in methods["frameworks"]
    assert "slavc" in methods["objectives"]
    assert {"synthetic", "vggss"} <= set(methods["datasets"])
