"""A project whose data set and networks are so small that every command takes seconds."""

from __future__ import annotations

from pathlib import Path

import yaml
from tests.fixtures.project import write_project

_PARAMS = {
    "seed": 0,
    "data": {
        "name": "synthetic",
        "synthetic": {
            **{"image_size": 32, "duration_s": 0.25, "n_train": 64, "n_validation": 24, "n_test": 8, "n_offscreen": 4},
            **{"n_swap": 4, "n_small": 0, "n_duet": 0, "n_unheard": 0},
        },
    },
    "split": {"label_ratio": 0.5},
    "model": {"name": "tiny"},
    "objective": {"name": "ezvsl", "ezvsl": {"pooling": "topk", "topk": 4}},
    "framework": {
        "name": "dmt",
        "xpl": {"warmup_steps": 8, "pacing": {"start": 0.5, "length": 16}},
        "dmt": {"delta": 0.05, "tau": 0.0, "ema_decay": 0.9, "warmup_steps": 8},
    },
    # Eight steps an epoch.
    "trainer": {
        **{"name": "default", "epochs": 4, "batch_size": 8, "labeled_batch_size": 4, "checkpoint_every": 3},
        **{"learning_rate": 0.003, "precision": "32-true"},
    },
    "evaluate": {"gallery": 2},
    "tracking": {"system_metrics": False},
}
_COMMON = {"warmup_steps": {"kind": "int", "low": 4, "high": 8, "step": 2}, "contrastive_weight": {"high": 2.0}}
_TUNE = {
    **{"defaults": ["full", "_self_"], "name": "small", "trials": 3, "startup": 2, "concurrency": 1},
    "scheduler": {"grace": 1, "reduction": 2},
    "spaces": {
        "dmt": _COMMON | {"delta": {"low": 0.01}, "tau": {"low": 0.0}},
        "xpl": _COMMON | {"pacing": {"length": {"kind": "int", "low": 4, "high": 24, "step": 4}}},
    },
}


def make_project(folder: Path) -> None:
    """Write params.yaml and conf; its search is ``tune=small``."""
    write_project(folder, yaml.safe_dump(_PARAMS), _TUNE)
