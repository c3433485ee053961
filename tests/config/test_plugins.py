"""Methods of a project's own: a file beside params.yaml, a registry line each, and one line of params.yaml."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.fixtures.messages import says

from avsl.records import EvaluationRecord, RunRecord

pytestmark = pytest.mark.slow

_PLUGIN = """
from torch import nn
from torchmetrics import MeanMetric
from avsl.data.datasets import DATASETS
from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.supervised import Supervised, SupervisedConfig
from avsl.metrics import METRICS
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

class TwiceConfig(SupervisedConfig):
    SPACE = {"contrastive_weight": {"kind": "float", "low": 0.0, "high": 2.0}}

class Twice(Supervised):
    pass

class Contrast(MeanMetric):
    def __init__(self, threshold):
        super().__init__()

    def update(self, confidence, truth):
        super().update(confidence.amax((-2, -1)) - confidence.amin((-2, -1)))

OBJECTIVES["pull"] = (Pull, PullConfig)
FRAMEWORKS["twice"] = (Twice, TwiceConfig)
DATASETS["shapes"] = (generate, SyntheticConfig)
METRICS["contrast"] = Contrast
"""


@pytest.fixture
def plugged(project: Path) -> Path:
    """The tiny project with its own objective, framework, data set and metric."""
    (project / "own_methods.py").write_text(_PLUGIN)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"]["shapes"] = params["data"]["synthetic"]
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"plugins": ["own_methods"]}))
    return project


def _avsl(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "avsl.cli", *words], cwd=project, capture_output=True, text=True, check=False
    )


def test_own_methods_are_trained_and_reported(plugged: Path) -> None:
    """All four go through run and report; their settings are checked like the package's."""
    chosen = ["data=shapes", "framework=twice", "objective=pull", "objective.pull.weight=0.5"]
    for command in ("run", "report"):
        done = _avsl(plugged, command, *chosen)
        assert done.returncode == 0, done.stderr
    base = plugged / "outputs" / "shapes"
    record = RunRecord.load(base / "train" / "0.25" / "twice-pull" / "0")
    assert (record.framework, record.objective) == ("twice", "pull")
    scores = EvaluationRecord.load(base / "evaluate" / "0.25" / "twice-pull" / "0").test.scores
    assert 0 < scores["contrast"] < 1
    with (base / "report" / "subsets.csv").open(newline="") as file:
        contrasts = {line["part"]: line["contrast"] for line in csv.DictReader(file) if line["framework"] == "twice"}
    assert float(contrasts["test"]) == pytest.approx(scores["contrast"], abs=1e-6)
    assert "twice" in (base / "report" / "comparison.md").read_text()
    done = _avsl(plugged, "config", *chosen, "objective.pull.wieght=2")
    assert done.returncode == 2
    assert says(done.stderr, "'objective.pull.wieght'", "'weight'")


def test_own_methods_are_trained_on_two_devices(plugged: Path) -> None:
    """The second process knows them too."""
    chosen = ["framework=twice", "objective=pull", "trainer.devices=2"]
    done = _avsl(plugged, "run", *chosen)
    assert done.returncode == 0, done.stderr
    assert len(list(plugged.glob(f"outputs/synthetic/**/train/0.25/twice-pull/0/{RunRecord.FILE}"))) == 1


def test_own_methods_are_searched(plugged: Path) -> None:
    """The processes that run a sweep's trials know them too."""
    chosen = ["framework=twice", "objective=pull", "trainer.epochs=1"]
    done = _avsl(plugged, "sweep", *chosen, "tune.trials=1", "tune.scheduler=null")
    assert done.returncode == 0, done.stderr
    (path,) = plugged.glob("outputs/sweep/*/synthetic/search/*/result.json")
    assert {trial["state"] for trial in json.loads(path.read_text())["trials"]} == {"complete"}
