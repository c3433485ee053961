"""Records: written and read back, and refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avsl.errors import DataError
from avsl.records import EvaluationRecord, Record, RunRecord, StaleError, load_evaluated

_Make = Callable[..., Any]


def test_records_come_back_as_they_were_saved(
    make_run_record: _Make, make_evaluation_record: _Make, tmp_path: Path
) -> None:
    """Every score by its name, in the file as in the record; parts in order; scores with an object prior too."""
    run = make_run_record("dmt", "fnac", 0.1)
    part = {"n": 3, "n_silent": 1, "n_listed": 1200, "n_exact": 2, "ciou": 0.25, "auc": 0.5, "p10": 0.125}
    guided = {"weights": "w", "alpha": 0.4, "backbone": "resnet18", "threshold": 0.7, "validation": part, "test": part}
    sizes = {"small": {"n": 3, "ciou": 0.25}}
    scores = make_evaluation_record(run, test=part | {"by_size": sizes}, test_small=part, ogl=guided)
    run.save(tmp_path)
    scores.save(tmp_path)
    assert load_evaluated(tmp_path, tmp_path) == (run, scores)
    assert list(scores.parts) == ["validation", "test", "test_small"]
    assert scores.test.scores == {"ciou": 0.25, "auc": 0.5, "p10": 0.125}
    assert scores.test.coverage == "4 of 1,200"
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["p10"] == 0.125
    named = dict(scores.by_name())
    assert (named["test/n_exact"], named["test/by_size/small/n"], named["ogl/test/p10"]) == (2, 3, 0.125)
    assert not any("validation" in name for name in named)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.pop("version"), "format 1, expected 3"),
        (lambda values: values.update(version=99), "format 99, expected 3"),
        (lambda values: values.pop("model_hash"), "model_hash"),
        (lambda values: values.update(seed="many"), "seed"),
        (lambda values: values.update(sead=1), "sead"),
    ],
)
@pytest.mark.parametrize("kind", [RunRecord, EvaluationRecord])
def test_what_cannot_be_read_names_the_file_and_the_key(
    kind: type[Record], change: _Make, said: str, make_run_record: _Make, make_evaluation_record: _Make, tmp_path: Path
) -> None:
    """Another version, a key too many or too few, a value of another type."""
    run = make_run_record("dmt", "fnac", 0.1)
    (run if kind is RunRecord else make_evaluation_record(run)).save(tmp_path)
    path = tmp_path / kind.FILE
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError) as caught:
        kind.load(tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_what_is_no_record_names_the_file(text: str, tmp_path: Path) -> None:
    """An absent file names the command that makes it."""
    with pytest.raises(DataError, match="avsl train"):
        RunRecord.load(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize("name", ["model_hash", "run_id", "split_hash"])
def test_an_evaluation_of_another_model_is_stale(
    name: str, make_run_record: _Make, make_evaluation_record: _Make, tmp_path: Path
) -> None:
    """Both folders and what differs are named."""
    run = make_run_record("dmt", "fnac", 0.1)
    run.save(tmp_path / "train")
    make_evaluation_record(run.model_copy(update={name: "other"})).save(tmp_path / "evaluate")
    with pytest.raises(StaleError) as caught:
        load_evaluated(tmp_path / "train", tmp_path / "evaluate")
    assert all(word in str(caught.value) for word in (name, "other", str(tmp_path / "train"), "metrics.json"))
