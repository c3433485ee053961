"""The registry as people read it, through the command line on a real store."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from tests.fixtures.messages import facts, says

from avsl.cli import main
from avsl.models.hashing import hash_model
from avsl.registry.catalogue import diff_versions, list_versions
from avsl.registry.promotion import promote
from avsl.registry.rules import Candidate, model_name
from avsl.registry.versions import ModelCode
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingConfig, TrackingError, open_store

_NAME = model_name("shapes", 0.1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A model with two versions, the second of which is champion."""
    root = tmp_path_factory.mktemp("registry")
    store = open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", system_metrics=False), root)
    script, package, exported = root / "script.py", root / "package", root / "model"
    script.write_text("import mlflow\nmlflow.models.set_model(lambda model_input: model_input)\n")
    for folder in (package, exported):
        folder.mkdir()
    (exported / "model.json").write_text("{}")
    (exported / "model.safetensors").write_bytes(b"weights")
    signature = ModelSignature(Schema([ColSpec("string", "frame")]))
    code = ModelCode(script, package, signature, pd.DataFrame({"frame": ["a"]}), ["mlflow"])
    candidate = Candidate("", "", "ezvsl", 0.0, "ciou", "s", "shapes", 0.1, exported, hash_model(exported))
    for framework, score in (("supervised", 0.5), ("dmt", 0.625)):
        tags = RunTags(framework, "ezvsl", 0.1, 0, "d", "s", "c", "train")
        settings = {"trainer": {"epochs": 3}, "framework": {"name": framework}}
        with start_or_resume_run(store, "shapes", framework, tags, settings) as run:
            pass
        scored = replace(candidate, run_id=run.run_id, framework=framework, score=score, test_metrics={"ciou": 0.4})
        promote(store, [scored], "shapes", 0.1, "s", "ciou", code)
    store.client.create_registered_model("somebody-elses")
    return store


@pytest.fixture
def command(registry: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the project, on that store."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)


def test_versions_are_listed_with_scores_and_reasons(registry: Store) -> None:
    """Newest first, scores in per cent; models of others are not shown."""
    rows = list_versions(registry)
    keys = ("model", "labels", "version", "alias", "framework", "objective")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (_NAME, "0.1", "2", "champion", "dmt", "ezvsl"),
        (_NAME, "0.1", "1", "previous", "supervised", "ezvsl"),
    ]
    assert [(row["validation"], row["test"]) for row in rows] == [("62.5", "40.0"), ("50.0", "40.0")]
    assert all(says(row["why"], "0.625 0.5 ciou") for row in rows)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row["registered"]) for row in rows)


def test_two_versions_differ_in_settings_and_scores(registry: Store) -> None:
    """What is the same is left out; an alias stands for its version."""
    found = diff_versions(registry, _NAME, "1", "champion")
    assert found["version"] == ("1", "2")
    assert found["framework.name"] == ("supervised", "dmt")
    assert found["validation_score"] == ("0.5", "0.625")
    assert not {"trainer.epochs", "split_hash", "test.ciou"} & set(found)
    with pytest.raises(TrackingError, match=facts(f"'2' 'champion' 2 '{_NAME}'")):
        diff_versions(registry, _NAME, "2", "champion")
    with pytest.raises(TrackingError, match=facts("'9' 1 2 champion previous")):
        diff_versions(registry, _NAME, "2", "9")


@pytest.mark.usefixtures("command")
def test_a_person_rolls_back_and_promotes(registry: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`avsl models` moves the alias, says so, and the list and the comparison tell why."""
    assert main(["models", "rollback", _NAME, "--reason", "misses cars"]) == 0
    assert says(capsys.readouterr().out, f"{_NAME} 1 misses cars 2")
    assert main(["models", "list"]) == 0
    head, second, first = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["model", "labels", "version", "alias"]
    assert re.search(r" 2 +previous +dmt .* 1 .*misses cars$", second)
    assert re.search(r" 1 +champion +supervised .* 1 .*misses cars$", first)
    assert head.index("alias") == second.index("previous") == first.index("champion")
    assert main(["models", "diff", _NAME, "previous", "champion"]) == 0
    assert re.search(r"^framework\.name +dmt +supervised$", capsys.readouterr().out, re.MULTILINE)

    assert main(["models", "promote", _NAME, "previous", "--reason", "they are back"]) == 0
    assert str(registry.client.get_model_version_by_alias(_NAME, "champion").version) == "2"
    capsys.readouterr()
    for words, message in (
        (["promote", _NAME, "2", "--reason", "again"], f"2 '{_NAME}' champion"),
        (["promote", _NAME, "3", "--reason", "new"], f"'{_NAME}' '3'"),
        (["rollback", "avsl-none", "--reason", "x"], "'avsl-none' sqlite:///"),
        (["diff", "avsl-none", "1", "2"], "'avsl-none' sqlite:///"),
    ):
        assert main(["models", *words]) == 2
        error = capsys.readouterr().err
        assert says(error, "avsl:", message)
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["models", "promote", _NAME, "1"])
    assert "--reason" in capsys.readouterr().err
