"""The registration step, from what trainings and evaluations leave."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from tests.fixtures.messages import facts, says

from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import SplitConfig, make_split
from avsl.evaluation.scoring import METRIC
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.models.hashing import hash_model
from avsl.models.image import ImageEncoderConfig
from avsl.models.spectrogram import SpectrogramEncoderConfig
from avsl.records import EvaluationRecord, RunRecord
from avsl.registry.versions import CHAMPION, PREVIOUS
from avsl.stages.register import register
from avsl.tracking.runs import RESTORED_FROM
from avsl.tracking.store import TrackingConfig, TrackingError, open_store

_NAME = "avsl-synthetic-ratio-0.5"
_SMALL: dict[str, Any] = {"channels": (8, 8, 8, 8), "stem_width": 8}


class _Project:
    """A split of a tiny data set, and candidates of which a test says how good they are."""

    def __init__(
        self, root: Path, make_run: Callable[..., RunRecord], make_evaluation: Callable[..., EvaluationRecord]
    ) -> None:
        self._make_run, self._make_evaluation = make_run, make_evaluation
        self.root = root
        self.base = root / "synthetic"
        self.client: MlflowClient = open_store(TrackingConfig(system_metrics=False), root).client
        self.experiment = self.client.create_experiment("avsl-synthetic", (root / "artifacts").as_uri())
        parts = dict.fromkeys(("n_small", "n_duet", "n_offscreen", "n_swap", "n_unheard"), 0)
        settings = SyntheticConfig(image_size=32, duration_s=0.25, n_train=4, n_validation=2, n_test=2, **parts)
        generate(settings, self.base / "prepared", 1)
        data = PreparedData.open(self.base / "prepared")
        splits = {seed: make_split(data, SplitConfig(label_ratio=0.5, seed=seed)) for seed in range(3)}
        (self.base / "split" / "0.5").mkdir(parents=True)
        for seed, split in splits.items():
            split.save(self.base / "split" / "0.5" / f"{seed}.json")
        self.split_hashes = {seed: split.content_hash for seed, split in splits.items()}

    def candidate(
        self, framework: str, validation: float, test: float, *, seed: int = 0, members: int = 1, **changes: str
    ) -> str:
        """Leave what a training and its evaluation leave; returns the run."""
        run_id: str = self.client.create_run(self.experiment).info.run_id
        trained = self.base / "train" / "0.5" / f"{framework}-lvs" / str(seed)
        config = LocalizerConfig(
            dim=8,
            image=ImageEncoderConfig(backbone="resnet10t", backbone_args=_SMALL, stages=(1,)),
            audio=SpectrogramEncoderConfig(backbone="resnet10t", backbone_args=_SMALL),
        )
        settings = {"image_size": 32, "sample_rate": 16000, "duration_s": 0.25, "threshold": 0.4}
        description = ExportedModel.read({"members": [config] * members} | settings, "")
        save_exported(trained / "model", LocalizerEnsemble([Localizer(config) for _ in range(members)]), description)
        hashes = {"run_id": run_id, "split_hash": self.split_hashes[seed], "model_hash": hash_model(trained / "model")}
        run = self._make_run(framework, "lvs", 0.5, **{"metric": METRIC, "seed": seed} | hashes | changes)
        run.save(trained)
        params = {"objective": {"name": "lvs"}, "data": {"name": "synthetic"}}
        (trained / "config.yaml").write_text(yaml.safe_dump(params))
        part = {"n": 2, "n_silent": 0, "n_listed": 5, "auc": 0.3, "ciou_median": 0.21, "auc_median": 0.31}
        silent = {"n": 0, "n_silent": 3, "n_listed": 3, "false_positive_rate": 0.25}
        evaluation = self.base / "evaluate" / "0.5" / f"{framework}-lvs" / str(seed)
        self._make_evaluation(
            run,
            validation=part | {"ciou": validation, "auc": 0.4},
            test=part | {"ciou": test, "ciou_shuffled": 0.11, "boxed_silence": 0.07},
            test_offscreen=silent,
            caveats=[f"test of {framework} rests on 2 clips"],
        ).save(evaluation)
        rows = ["a,a,test,x,0.1,0.7000,0.9", "b,b,test,x,0.1,0.2000,0.9", "c,c,test_offscreen,x,0.0,,0.9"]
        head = "sample_id,recording,part,label,area,ciou,max_confidence"
        (evaluation / "per_sample.csv").write_text("\n".join([head, *rows]) + "\n")
        clips = [f"v{k}" for k in range(200)]
        found = np.arange(200) < round(200 * validation)
        np.savez(evaluation / "validation.npz", sample_id=clips, recording=clips, ciou=found.astype(np.float32))
        return run_id

    def register(self, *overrides: str) -> dict[str, Any]:
        """Run the step; returns what it left."""
        register([f"root={self.root}", "data=synthetic", "split.label_ratio=0.5", *overrides])
        decision: dict[str, Any] = json.loads((self.base / "register" / "0.5.json").read_text())
        return decision

    def holder(self, alias: str) -> Any:
        """The version that holds an alias."""
        return self.client.get_model_version_by_alias(_NAME, alias)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with an empty MLflow store, which takes seconds to make."""
    root = tmp_path_factory.mktemp("empty")
    open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow/mlflow.db"), root)
    return root


@pytest.fixture
def project(
    empty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_run_record: Callable[..., RunRecord],
    make_evaluation_record: Callable[..., EvaluationRecord],
) -> _Project:
    """No candidate yet; MLflow's store lies in the project's root."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = Path(shutil.copytree(empty, tmp_path / "root"))
    return _Project(root, make_run_record, make_evaluation_record)


@pytest.mark.slow
def test_the_best_on_validation_is_champion_until_a_better_one_comes(
    project: _Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Test scores stand beside and select nothing; equals and worse ones change nothing; the old one is kept."""
    worse = project.candidate("supervised", validation=0.4, test=0.9)
    better = project.candidate("dmt", validation=0.6, test=0.2)
    first = project.register()
    assert (first["model"], first["action"], first["version"], first["previous"]) == (_NAME, "promoted", "1", None)
    champion = project.holder(CHAMPION)
    assert champion.tags["run_id"] == better != worse
    assert float(champion.tags["validation_score"]) == 0.6
    assert (float(champion.tags["test.ciou"]), float(champion.tags["test.auc"])) == (0.2, 0.3)
    card = champion.description
    assert card == project.client.get_registered_model(_NAME).description
    assert says(card.splitlines()[0], "# dmt lvs synthetic, 50 %")
    assert f"`{project.split_hashes[0][:12]}`" in card
    assert says(card, "2 of 4 training 2 validation")
    assert "| validation | 60.0 | 40.0 | 2 |" in card
    assert says(card, "sounds shuffled | 11.0 | | 2 |")
    assert says(card, "whole image | 5.0 | 18.0 | 2 |")
    assert says(card, "offscreen: 25.0 % 3")
    assert says(card, "- Test of dmt rests on 2 clips")
    assert "supervised" not in card
    assert says(caplog.text, "dmt-lvs 0.5 rests on 2 clips")
    assert says(card, "test: 7.0 % with silence")
    assert champion.tags["evidence"] in card
    # Two clips, one found: draws with replacement find none, one or both. A clip of cIoU c adds c to the AUC, to within
    # half a step of the thresholds.
    found = re.search(r"^\| test \| 20\.0 \[0\.0, 100\.0\] \| 30\.0 \[([\d.]+), ([\d.]+)\] \|", card, re.MULTILINE)
    assert found is not None
    assert [float(end) for end in found.groups()] == pytest.approx([20, 70], abs=2.6)
    assert f'load_model("models:/{_NAME}@champion")' in card
    assert len(card) <= 5000  # as long as MLflow's databases take

    again = project.register()
    assert (again["action"], again["version"]) == ("kept", "1")
    project.candidate("supervised", validation=0.6, test=1.0)
    assert project.register()["action"] == "kept"
    assert len(project.client.search_model_versions(f"name = '{_NAME}'")) == 1

    best = project.candidate("mean_teacher", validation=0.7, test=0.1)
    decision = project.register()
    assert (decision["action"], decision["version"], decision["previous"]) == ("promoted", "2", "1")
    assert project.holder(CHAMPION).tags["run_id"] == best
    assert project.holder(PREVIOUS).tags["run_id"] == better


@pytest.mark.slow
def test_the_method_comes_first_and_then_its_best_seed(project: _Project) -> None:
    """By the mean over as many seeds; of two that are not told apart the one with fewer parameters, if cost counts."""
    runs = {
        (framework, seed): project.candidate(framework, mean + 0.01 * seed, 0.5, seed=seed, members=members)
        for framework, mean, members in (("dmt", 0.71, 2), ("mean_teacher", 0.7, 1), ("supervised", 0.4, 1))
        for seed in range(3)
    }
    single = project.candidate("xpl", 0.99, 0.99)
    decision = project.register()
    champion = project.holder(CHAMPION)
    assert champion.tags["run_id"] == runs["mean_teacher", 2]
    assert (champion.tags["seeds"], champion.tags["seed"]) == ("3", "2")
    assert says(champion.tags["evidence"], "mean_teacher-lvs 0.71 3 seeds not told apart dmt-lvs 0.72 cheaper")
    assert champion.tags["evidence"] in champion.description
    assert decision["skipped"].keys() == {single}
    assert says(decision["skipped"][single], "xpl-lvs 1 seed 3")
    kept = project.register("register.prefer=score")
    assert (kept["action"], project.holder(CHAMPION).tags["run_id"]) == ("promoted", runs["dmt", 2])


@pytest.mark.slow
def test_candidates_of_another_split_or_metric_do_not_compete(project: _Project) -> None:
    """They are named with the reason; where none is left there is no champion and one sentence."""
    other = project.candidate("supervised", validation=1.0, test=1.0, split_hash="other")
    oracle = project.candidate("mean_teacher", validation=1.0, test=1.0, metric="oracle")
    with pytest.raises(TrackingError, match=f"^'{_NAME}' gets no champion: ") as caught:
        project.register()
    assert other in str(caught.value)
    assert oracle in str(caught.value)
    ours = project.candidate("dmt", validation=0.1, test=0.1)
    decision = project.register()
    assert set(decision["skipped"]) == {other, oracle}
    assert project.holder(CHAMPION).tags["run_id"] == ours


@pytest.mark.slow
def test_an_evaluation_of_an_earlier_model_does_not_compete(
    project: _Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A method that was trained again but not evaluated is left out, with its folder named; nothing of it registers."""
    project.candidate("supervised", validation=0.9, test=0.9)
    trained = project.base / "train" / "0.5" / "supervised-lvs" / "0"
    for name in ("run_id", "model_hash"):
        now = RunRecord.load(trained)
        now.model_copy(update={name: "of a later training"}).save(trained)
        with pytest.raises(TrackingError, match="gets no champion"):
            project.register()
        assert all(word in caplog.text for word in (str(trained), "metrics.json", name, "avsl evaluate"))
        caplog.clear()
        now.save(trained)
    ours = project.candidate("dmt", validation=0.1, test=0.1)
    RunRecord.load(trained).model_copy(update={"model_hash": "of a later training"}).save(trained)
    project.register()
    assert project.holder(CHAMPION).tags["run_id"] == ours


@pytest.mark.slow
def test_a_run_of_another_store_is_refused_until_it_is_recorded_again(project: _Project) -> None:
    """The run and the command that records it are named; the version then belongs to the run that stands for it."""
    known = project.candidate("dmt", validation=0.1, test=0.1)
    lost = "0" * 32
    for path in project.base.glob("*/0.5/dmt-lvs/0/*.json"):
        path.write_text(path.read_text().replace(known, lost))
    with pytest.raises(TrackingError, match=facts(f"'{lost}' dmt-lvs/0 avsl models restore")):
        project.register()
    project.client.set_tag(known, RESTORED_FROM, lost)
    project.register()
    assert project.holder(CHAMPION).run_id == known
