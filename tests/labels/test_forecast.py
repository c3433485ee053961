"""How many labels a score needs, from evaluations on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.fixtures.messages import says

from avsl.errors import DataError
from avsl.labels.forecast import forecast_labels, read_runs
from avsl.records import EvaluationRecord, RunRecord
from avsl.schema import ConfigError
from avsl.statistics.learning_curve import Curve
from avsl.tracking.store import TrackingConfig, open_store

_TRUE = Curve(limit=0.8, drop=0.3, slope=0.5, scale=100)
_SETTINGS = ["data=synthetic"]


@pytest.fixture
def save(
    tmp_path: Path,
    new_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_run_record: Callable[..., RunRecord],
    make_evaluation_record: Callable[..., EvaluationRecord],
) -> Callable[..., None]:
    """Saves the evaluation of a run with so many labels, on a known curve, in a project that is empty otherwise."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "mlflow").mkdir(parents=True)
    shutil.copyfile(new_database, tmp_path / "outputs" / "mlflow" / "mlflow.db")

    def save(framework: str, ratio: float, labeled: int, seed: int = 0) -> None:
        run = make_run_record(framework, "ezvsl", ratio, labeled=labeled, seed=seed)
        part = {"n": 2000, "n_silent": 0, "n_listed": 2000, "ciou": _TRUE.score(labeled), "auc": 0.4}
        folder = tmp_path / "outputs/synthetic/evaluate" / str(ratio) / f"{framework}-ezvsl" / str(seed)
        make_evaluation_record(run, test=part).save(folder)

    return save


def test_the_table_answers_both_questions(
    save: Callable[..., None], read_rows: Callable[[Path], list[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each method with three numbers of labels; others are named; the picture can be opened."""
    for ratio, labeled in ((0.01, 30), (0.03, 90), (0.1, 300), (0.3, 900)):
        save("dmt", ratio, labeled)
        save("dmt", ratio, labeled, seed=1)
    save("xpl", 0.1, 300)
    path = forecast_labels(_SETTINGS, target=0.6, more=600)
    (row,) = read_rows(path)
    assert (row["method"], row["runs"], row["most labels"]) == ("dmt-ezvsl", "8", "900")
    needed, low, high = map(int, re.findall(r"\d+", row["labels for 0.6"]))
    assert low <= needed <= high
    assert needed == pytest.approx(_TRUE.labels(0.6), rel=0.1)
    assert float(row["CIoU with 600 more"].split()[0]) == pytest.approx(_TRUE.score(1500), abs=0.01)
    shown = capsys.readouterr()
    assert "xpl-ezvsl" in shown.err
    assert re.search(r"dmt-ezvsl +300 +900 +0\.\d+ \(.*\) +0\.700 +[+-]0\.0", shown.out)
    assert re.search(r"^dmt-ezvsl: .*1 forecasts of the past were 0\.0\d+ off on average", shown.out, re.M)
    assert Image.open(path.with_suffix(".png")).width > 600


def test_mlflow_has_the_answer(save: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """The figures, the sentence, the table and the plot in a run; a store out of reach takes nothing from the rest."""
    for ratio, labeled in ((0.01, 30), (0.03, 90), (0.1, 300)):
        save("dmt", ratio, labeled)
    forecast_labels(_SETTINGS, target=0.95)
    client = open_store(TrackingConfig(), Path("outputs"), writes=False).client
    experiment = client.get_experiment_by_name("avsl-synthetic")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    found = run.data.metrics
    assert found["dmt-ezvsl/ciou_with_more"] == pytest.approx(_TRUE.score(600), abs=0.02)
    assert found["dmt-ezvsl/ciou_with_more_low"] < _TRUE.score(600) < found["dmt-ezvsl/ciou_with_more_high"]
    assert "dmt-ezvsl/labels_for_target" not in found  # never
    assert says(run.data.tags["answer/dmt-ezvsl"], "0.95 out of reach 300 more")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"forecast.csv", "forecast.png"}
    path = forecast_labels([*_SETTINGS, "tracking.uri=http://127.0.0.1:9"])
    assert path.is_file()
    assert says(caplog.text, "MLflow http://127.0.0.1:9")


def test_what_lies_far_is_marked_and_what_is_out_of_reach_said(
    save: Callable[..., None],
    read_rows: Callable[[Path], list[dict[str, str]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beyond four times the labels seen a number has a question mark, and the sentence calls it a guess."""
    for ratio, labeled in ((0.01, 30), (0.03, 90), (0.1, 300)):
        save("dmt", ratio, labeled)
    (row,) = read_rows(forecast_labels(_SETTINGS, target=0.78, more=900))
    assert row["labels for 0.78"].endswith("?")
    assert not row["CIoU with 900 more"].endswith("?")
    (row,) = read_rows(forecast_labels(_SETTINGS, target=0.95, more=901))
    assert says(row["labels for 0.95"], "never:")
    assert row["CIoU with 901 more"].endswith("?")
    needed, further = (line for line in capsys.readouterr().out.splitlines() if line.startswith("dmt-ezvsl: "))
    assert says(needed, "a guess at 4 times 300 seen")
    assert says(further, "out of reach a guess at 1,201 4 times 300 seen")


def test_too_few_runs_name_the_trainings_that_are_lacking(save: Callable[..., None]) -> None:
    """With the person's own overrides."""
    save("dmt", 1.0, 40)
    with pytest.raises(DataError, match="--probe") as caught:
        forecast_labels([*_SETTINGS, "split.label_ratio=1.0"])
    commands = re.findall(r"avsl run data=synthetic (\S+) (\S+?)(?=;|$)", str(caught.value))
    assert commands == [(f"split.label_ratio={share}", "split.ratio_of=annotated") for share in (0.25, 0.5)]


def test_records_that_cannot_be_read_are_named(save: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """The others count."""
    save("dmt", 0.1, 40)
    broken = Path("outputs/synthetic/evaluate/0.2/dmt-ezvsl/metrics.json")
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert [run.labels for run in read_runs([Path("outputs/synthetic/evaluate")])["dmt-ezvsl"]] == [40]
    assert str(broken) in caplog.text


@pytest.mark.parametrize(("target", "more", "named"), [(1.5, None, "--target 1.5"), (0.5, 0, "--more 0")])
def test_questions_without_an_answer_are_refused(target: float, more: int | None, named: str) -> None:
    """The option is named."""
    with pytest.raises(ConfigError, match=named):
        forecast_labels([], target, more)
