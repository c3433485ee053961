"""Methods of a project's own: a file beside params.yaml, a registry line each, and one line of params.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.fixtures.messages import says

from avsl.records import RunRecord

pytestmark = pytest.mark.slow

_PLUGIN = """
from torch import nn
from avsl.data.datasets import DATASETS
from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.supervised import Supervised, SupervisedConfig
from avsl.objectives import OBJECTIVES
from avsl.schema import StrictConfig
from avsl.types import LossTerms, Needs

class PullConfig(StrictConfig):
    weight: float = 1.0

class Pull(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.needs = config, Needs()

    def forward(self, views, step):
        loss = -self.config.weight * views[0].audio.diagonal().mean()
        return LossTerms(loss, {"pull": loss.detach()})

class Twice(Supervised):
    pass

OBJECTIVES["pull"] = (Pull, PullConfig)
FRAMEWORKS["twice"] = (Twice, SupervisedConfig)
DATASETS["shapes"] = (generate, SyntheticConfig)
"""


def test_own_methods_are_trained_and_reported(project: Path) -> None:
    """An objective, a framework and a data set from one file go through run and report; their settings are checked."""
    (project / "own_methods.py").write_text(_PLUGIN)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"]["shapes"] = params["data"]["synthetic"]
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"plugins": ["own_methods"]}))
    chosen = ["data=shapes", "framework=twice", "objective=pull", "objective.pull.weight=0.5"]

    def avsl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "avsl.cli", *words], cwd=project, capture_output=True, text=True, check=False
        )

    done = avsl("run", *chosen)
    assert done.returncode == 0, done.stderr
    base = project / "outputs" / "shapes"
    record = RunRecord.load(base / "train" / "0.25" / "twice-pull")
    assert (record.framework, record.objective) == ("twice", "pull")
    done = avsl("report", *chosen)
    assert done.returncode == 0, done.stderr
    assert "twice" in (base / "report" / "comparison.md").read_text()
    done = avsl("config", *chosen, "objective.pull.wieght=2")
    assert done.returncode == 2
    assert "'objective.pull.wieght'" in done.stderr
    assert says(done.stderr, "'weight'")
