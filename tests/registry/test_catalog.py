"""The registry as people read it, through the command line on a real store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fixtures.messages import facts, says
from tests.fixtures.store import MakeCandidate

from avsl.cli import main
from avsl.registry.catalog import diff_versions, list_versions
from avsl.registry.promotion import promote
from avsl.registry.rules import model_name
from avsl.registry.versions import ModelCode
from avsl.tracking.store import Store, TrackingConfig, TrackingError, open_store

_NAME = model_name("shapes", 0.1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, code: ModelCode, make_candidate: MakeCandidate) -> Store:
    """A model with two versions, the second of which is champion."""
    root = tmp_path_factory.mktemp("registry")
    store = open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", system_metrics=False), root)
    exported = root / "model"
    exported.mkdir()
    (exported / "model.json").write_text("{}")
    (exported / "model.safetensors").write_bytes(b"weights")
    for framework, score in (("supervised", 0.5), ("dmt", 0.625)):
        scores = {"score": score, "metric": "ciou", "test_metrics": {"ciou": 0.4}}
        settings = {"trainer": {"epochs": 3}, "framework": {"name": framework}}
        candidate = make_candidate(store, exported, "shapes", framework, label_ratio=0.1, params=settings, **scores)
        promote(store, [candidate], "shapes", 0.1, "s1", "ciou", code)
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
