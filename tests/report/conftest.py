"""What the stages before the report leave, of a small data set and of evaluations written by hand."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split, SplitConfig, make_split
from avsl.records import EvaluationRecord, RunRecord
from avsl.report.tables import report

_PROJECT = Path(__file__).parents[2]

# A seed's test CIoU is that of the cell and 5 points more for each seed above 1.
_SEEDS = (0, 1, 2)
_CELLS = (("supervised", 0.1, 0.25), ("dmt", 0.1, 0.5), ("supervised", 1.0, 0.75), ("dmt", 0.03, 0.125))


def _scores(ciou: float) -> dict[str, float]:
    """A part's figures."""
    names = ("ciou", "auc", "mean_ciou", "ciou_median", "auc_median", "mean_ciou_median")
    told = ("ciou_oracle", "auc_oracle", "mean_ciou_oracle", "ciou_shuffled")
    return {name: ciou + k / 1000 for k, name in enumerate((*names, *told))}


def _evaluate(
    make_run: Callable[..., RunRecord],
    base: Path,
    framework: str,
    ratio: float,
    ciou: float,
    objective: str = "ezvsl",
    seed: int = 0,
) -> None:
    run = make_run(framework, objective, ratio, labeled=round(400 * ratio), seed=seed)
    cell = Path(str(ratio), f"{framework}-{objective}", str(seed))
    figures: dict[str, Any] = {
        "metric": "CIoU@0.5",
        "threshold": 0.4,
        "validation": {"n": 30, "n_silent": 0, "n_listed": 30} | _scores(ciou),
        "test": {
            "n": 40,
            "n_silent": 0,
            "n_listed": 44,
            "by_size": {"small": {"n": 8, "ciou": ciou / 2}, "large": {"n": 32, "ciou": 9 * ciou / 8}},
            "by_class": {"dog, <barking>": {"n": 40, "ciou": ciou}},
        }
        | _scores(ciou)
        | {"boxed_silence": 0.02, "boxed_noise": 0.04, "boxed_offscreen": 0.3},
        "test_offscreen": {"n": 0, "n_silent": 15, "n_listed": 15, "false_positive_rate": 0.2},
        "baselines": {
            "whole_image": _scores(0.01) | {"ciou_oracle": 0.0},
            "centered_disc": {"ciou": 0.0625, "auc": 0.1, "ciou_median": 0.15, "auc_median": 0.2},
            "perfect_ranking": {"ciou_median": 0.5625, "auc_median": 0.6},
        },
    }
    if framework == "dmt":
        for k in (0, 1):
            alone = figures["validation"] | {"ciou": ciou - 0.1 * (k + 1)}
            figures[f"member_{k}"] = {"threshold": 0.5, "validation": alone, "test": alone}
    folder = base / "evaluate" / cell
    EvaluationRecord.of(run, figures).save(folder)
    hits = [f"t{k},r{k},test,a,0.1,{0.75 if k < round(40 * ciou) else 0.25},0.9\n" for k in range(40)]
    silent = [f"o{k},r{k},test_offscreen,a,0.0,,0.9\n" for k in range(15)]
    (folder / "per_sample.csv").write_text(
        "".join(["sample_id,recording,part,label,area,ciou,max_confidence\n", *hits, *silent])
    )
    ids = Split.load(base / "split" / str(ratio) / f"{seed}.json").validation
    rng = np.random.default_rng(round(1000 * ciou))
    np.savez(
        folder / "validation.npz",
        sample_id=np.array(ids),
        recording=np.array(ids),
        confidence=rng.random((len(ids), 4, 4)).astype(np.float16),
        ciou=np.append(rng.random(len(ids) - 1), np.nan).astype(np.float32),
    )

    trained = base / "train" / cell
    trained.mkdir(parents=True)
    pseudo = ",pseudo/acceptance,pseudo/precision,pseudo/recall" if framework == "dmt" else ""
    first, second = (f"1.0,2.5,0.0{',,,' * bool(pseudo)}", f"2.0,1.5,{ciou}{',0.3,0.7,0.6' * bool(pseudo)}")
    (trained / "curves.csv").write_text(f"epoch,train/loss,val/ciou{pseudo}\n{first}\n{second}\n")
    settings = {"seed": seed, "trainer": {"epochs": 2}, "framework": {"name": framework, framework: {"delta": 0.4}}}
    (trained / "config.yaml").write_text(json.dumps(settings))
    run.save(trained)


@pytest.fixture(scope="session")
def cells() -> tuple[tuple[str, float, float], ...]:
    """Framework, label ratio and mean test CIoU of each cell."""
    return _CELLS


@pytest.fixture(scope="session")
def template(make_run_record: Callable[..., RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set, its splits and four evaluated cells of three seeds; to be copied, not changed."""
    base = tmp_path_factory.mktemp("template") / "synthetic"
    none = {"n_small": 0, "n_duet": 0, "n_unheard": 0, "n_swap": 0}
    small = {"image_size": 32, "duration_s": 0.25, "n_train": 40, "n_validation": 12, "n_test": 3, "n_offscreen": 2}
    generate(SyntheticConfig.model_validate(small | none), base / "prepared", 1)
    data = PreparedData.open(base / "prepared")
    for ratio in {ratio for _, ratio, _ in _CELLS}:
        (base / "split" / str(ratio)).mkdir(parents=True)
        for seed in _SEEDS:
            make_split(data, SplitConfig(label_ratio=ratio, seed=seed)).save(
                base / "split" / str(ratio) / f"{seed}.json"
            )
    for framework, ratio, ciou in _CELLS:
        for seed in _SEEDS:
            _evaluate(make_run_record, base, framework, ratio, ciou + 0.05 * (seed - 1), seed=seed)
    return base


@pytest.fixture
def base(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set's folder below a root of the test's own; the project is the working directory."""
    monkeypatch.chdir(_PROJECT)
    return Path(shutil.copytree(template, tmp_path / "synthetic"))


@pytest.fixture
def add_evaluation(make_run_record: Callable[..., RunRecord], base: Path) -> Callable[..., None]:
    """Adds an evaluation to that folder: framework, label ratio, test CIoU, objective, seed."""
    return partial(_evaluate, make_run_record, base)


@pytest.fixture(scope="session")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder, made from the four cells; to be read."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(template, root / "synthetic")
    with contextlib.chdir(_PROJECT):
        report([f"root={root}", "data=synthetic"])
    return root / "synthetic" / "report"
