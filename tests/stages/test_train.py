"""The steps around training, and how their mistakes are told."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.messages import facts, says

from avsl.cli import call
from avsl.config.compose import compose
from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.errors import DataError
from avsl.evaluation.maps import compute_maps
from avsl.models import load_exported, read_description
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.schema import ConfigError
from avsl.stages.evaluate import evaluate
from avsl.stages.prepare import load_data, prepare, split
from avsl.stages.run import run
from avsl.stages.train import train
from avsl.tracking.store import open_store
from avsl.training.errors import TrainingError

_Where = Callable[..., Layout]


def _fail(error: Exception) -> Callable[[], NoReturn]:
    def step() -> NoReturn:
        raise error

    return step


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("key 'a' is wrong"),
        DataError("file x is damaged"),
        FileNotFoundError(2, "no such file", "x"),
        NotADirectoryError(20, "not a directory", "x/y"),
    ],
)
def test_a_mistake_in_the_input_is_one_sentence_and_code_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """What names a file, key or value needs no traceback."""
    assert call(_fail(error)) == 2
    assert capsys.readouterr().err == f"avsl: {error}\n"


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), RuntimeError("out of memory"), ConnectionError("refused")]
)
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    """An error that is not ours is not the user's either."""
    with pytest.raises(type(error), match=str(error)):
        call(_fail(error))


def test_a_step_that_ends_well_returns_0() -> None:
    """The exit code of success."""
    assert call(lambda: None) == 0


def test_steps_say_what_is_to_be_run_first(layout: _Where) -> None:
    """No model, no data: the message names the file and the step that makes it."""
    with pytest.raises(DataError, match=facts("run.json train")):
        evaluate()
    shutil.rmtree(layout().prepared)
    with pytest.raises(DataError, match=facts("manifest.json")):
        train()


def test_a_split_of_other_data_is_refused(layout: _Where) -> None:
    """Labels drawn from another version of the data set are never used."""
    prepare(["data.synthetic.seed=1", "root=outputs"])
    with pytest.raises(DataError, match=facts("split")):
        load_data(layout())


@pytest.mark.slow
def test_a_validation_part_that_is_all_silent_is_one_sentence(
    layout: _Where, draw_boxes: Callable[[PreparedData, Collection[str], NDArray[np.float32]], None]
) -> None:
    """Before anything is trained: no threshold could be chosen."""
    here = layout()
    draw_boxes(PreparedData.open(here.prepared), Split.load(here.split).validation, np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match=facts("prepared validation")):
        split()


def test_labels_are_refused_where_the_ratio_is_out_of_range(project: Path) -> None:
    """A ratio above 1 names its key."""
    with pytest.raises(ConfigError, match=r"^key 'split\.label_ratio' = 1\.5: "):
        train(["split.label_ratio=1.5"])


@pytest.mark.slow
def test_a_training_by_hand_leaves_the_result_of_params_yaml(layout: _Where, caplog: pytest.LogCaptureFixture) -> None:
    """Other settings than params.yaml's go to a folder apart, which is named; ``root=`` puts them where it says."""
    usual = ["framework=supervised"]
    asked = [*usual, "trainer.epochs=1"]
    here, apart = layout(*usual), layout(*asked)
    run(usual)
    before = {path: path.read_bytes() for path in here.base.rglob("*") if path.is_file()}
    caplog.clear()
    run(asked)
    assert {path: path.read_bytes() for path in before} == before
    assert RunRecord.load(apart.train).epochs == 1
    assert (apart.evaluation / "metrics.json").is_file()
    (said,) = {record.getMessage() for record in caplog.records if "params.yaml" in record.getMessage()}
    assert all(word in said for word in ("trainer.epochs", str(apart.base), "root=outputs"))
    run([*asked, "root=outputs"])
    assert RunRecord.load(here.train).epochs == 1


def test_data_and_splits_by_hand_leave_those_of_params_yaml(layout: _Where) -> None:
    """Other settings of the data make another set and split, other settings of the split another split of the set."""
    here = layout()
    before = load_data(here)[1]
    for asked in (["data.synthetic.seed=1"], ["split.seed=1"]):
        apart = layout(*asked)
        assert (apart.prepared == here.prepared) == (asked == ["split.seed=1"])
        prepare(asked)
        split(asked)
        assert load_data(apart)[1].content_hash != before.content_hash
        assert load_data(here)[1] == before


@pytest.mark.slow
def test_one_command_runs_all_steps_and_keeps_what_is_there(layout: _Where, caplog: pytest.LogCaptureFixture) -> None:
    """A second call trains nothing; another seed does; the evaluation agrees with the training's own score."""
    caplog.set_level(logging.INFO)
    run()
    here = layout()
    trained = RunRecord.load(here.train)
    figures = json.loads((here.evaluation / "metrics.json").read_text())
    assert figures["threshold"] == read_description(here.train / "model").threshold
    assert trained.validation is not None
    for key, value in trained.validation:
        assert figures["validation"][key] == pytest.approx(value, abs=1e-6)
    drawn = Split.load(here.split)
    assert figures["labeled"] == len(drawn.labeled) == 6
    assert figures["test"]["n"] == len(drawn.tests["test"])
    assert figures["test_offscreen"]["n_silent"] == 3
    assert {"member_0", "member_1", "baselines"} <= set(figures)
    for name in ("per_sample.csv", "curves.png", "gallery.png"):
        assert (here.evaluation / name).stat().st_size > 0

    caplog.clear()
    run()
    assert "epoch 1/2" not in caplog.text
    assert RunRecord.load(here.train) == trained
    assert json.loads((here.evaluation / "metrics.json").read_text()) == figures

    run(["seed=1"])
    assert "epoch 1/2" in caplog.text
    other = RunRecord.load(layout("seed=1").train)
    assert other.run_id != trained.run_id
    assert other.model_hash != trained.model_hash
    assert RunRecord.load(here.train) == trained

    config = compose()
    recorded = open_store(config.tracking, config.root).client.get_run(trained.run_id)
    for part, key in (("test", "ciou"), ("test_offscreen", "false_positive_rate"), ("test_swap", "iiou")):
        assert recorded.data.metrics[f"{part}/{key}"] == figures[part][key]
    for size, found in figures["test"]["by_size"].items():
        assert recorded.data.metrics[f"test/by_size/{size}/ciou"] == found["ciou"]
    assert not [name for name in recorded.data.metrics if "by_class" in name]
    assert recorded.data.params["framework.dmt.delta"] == "0.05"
    expected = {
        "framework": "dmt",
        "objective": "ezvsl",
        "label_ratio": "0.25",
        "seed": "0",
        "data_hash": drawn.data_hash,
        "split_hash": drawn.content_hash,
        "git_commit": "none",
        "dvc_stage": "train@dmt-ezvsl-0.25",
    }
    assert {key: recorded.data.tags[key] for key in expected} == expected


@pytest.fixture
def boxless(project: Path) -> list[str]:
    """The settings of a folder of a dozen pictures with sounds and no boxes, in the project."""
    rng = np.random.default_rng(0)
    for folder in ("frames", "audio"):
        (project / "clips" / folder).mkdir(parents=True)
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(project / "clips" / "frames" / f"c{k}.png")
        soundfile.write(project / "clips" / "audio" / f"c{k}.wav", np.sin(np.arange(8000) * (k + 1) / 50), 16000)
    sizes = ["data.folder.image_size=32", "data.folder.duration_s=0.25"]
    return ["data=folder", f"data.folder.root={project / 'clips'}", *sizes, "trainer.batch_size=4"]


def test_a_folder_without_boxes_is_trained_without_labels(
    boxless: list[str], layout: _Where, caplog: pytest.LogCaptureFixture
) -> None:
    """Every step up to the model, with a threshold by coverage; the record says so, and nothing is scored."""
    asked = [*boxless, "framework=self_supervised", "trainer.labeled_batch_size=2"]
    run(asked)
    assert says(caplog.text, "no boxes nothing scored")
    here = layout(*asked)
    assert not here.evaluation.exists()
    trained = RunRecord.load(here.train)
    assert trained.validation is None
    assert (trained.threshold_rule, trained.labeled) == ("coverage", 0)
    history = (here.train / "curves.csv").read_text().splitlines()
    assert len(history) == 3
    assert "train/loss" in history[0]
    assert "val/ciou" not in history[0]
    model, described = load_exported(here.train / "model")
    data = PreparedData.open(here.prepared)
    rows = np.arange(12)
    reader = RowReader(data, [], rows)
    confidence = compute_maps(list(model.members), reader, rows, 12).confidence
    assert float((confidence >= described.threshold).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert 0 <= int((confidence.amax((1, 2)) < described.presence).sum()) <= 6
    with pytest.raises(DataError, match=facts("boxes", here.prepared)):
        evaluate(asked)


def test_a_framework_that_needs_boxes_is_refused_where_there_are_none(boxless: list[str]) -> None:
    """In one sentence, before a run is opened."""
    asked = [*boxless, "framework=dmt", "trainer.labeled_batch_size=2"]
    prepare(asked)
    split(asked)
    with pytest.raises(TrainingError, match=facts("framework=dmt", "folder", "framework=self_supervised")):
        train(asked)
    config = compose(asked)
    assert not [e for e in open_store(config.tracking, config.root).client.search_experiments() if "folder" in e.name]
