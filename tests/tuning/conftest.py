"""A project whose trainings take seconds, to be searched in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.project import write_project

# Eight steps an epoch.
_PARAMS = """\
# Every comment of this file
seed: 0  # is kept.
data:
  name: synthetic
  synthetic: {image_size: 32, duration_s: 0.25, n_train: 64, n_validation: 48, n_test: 8,
              n_offscreen: 4, n_swap: 4, n_small: 0, n_duet: 0, n_unheard: 0}
split: {label_ratio: 0.5}
model: {name: tiny}
objective:
  name: ezvsl
  ezvsl: {pooling: topk, topk: 4}
framework:
  name: dmt
  mean_teacher: {delta: 0.4, warmup_steps: 8}
  pseudo_label: {delta: 0.4, warmup_steps: 8}
  xpl: {warmup_steps: 8, pacing: {start: 0.5, length: 16}}
  dmt: {delta: 0.4, tau: 0.1, warmup_steps: 8}  # so is this one
trainer:
  name: default
  epochs: 4
  batch_size: 8
  labeled_batch_size: 4
  checkpoint_every: 3
  learning_rate: 0.003
  precision: 32-true
evaluate: {gallery: 2}
tracking: {system_metrics: false}
"""
_COMMON = {"warmup_steps": {"kind": "int", "low": 4, "high": 8, "step": 2}, "contrastive_weight": {"high": 2.0}}
_TUNE: dict[str, Any] = {
    "defaults": ["full", "_self_"],
    "name": "small",
    "trials": 5,
    "startup": 3,
    "concurrency": 2,
    "scheduler": {"grace": 1, "reduction": 2},
    "spaces": {
        "dmt": _COMMON,
        "xpl": _COMMON | {"pacing": {"length": {"kind": "int", "low": 4, "high": 24, "step": 4}}},
        "mean_teacher": _COMMON,
        "pseudo_label": _COMMON,
    },
}


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a project; its search is `tune=small`."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("project")
        write_project(folder, _PARAMS, _TUNE)
        return folder

    return make


@pytest.fixture
def project(make_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, as the working directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Ray's own is 15: beside the other tests a trial would hardly get a core.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    folder = make_project()
    monkeypatch.chdir(folder)
    return folder
