"""Versions of registered models: what they hold, and one of each model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.messages import facts
from tests.fixtures.store import MakeCandidate

from avsl.models.hashing import hash_model
from avsl.registry.promotion import promote, roll_back
from avsl.registry.rules import Candidate, model_name
from avsl.registry.versions import ModelCode, model_folder
from avsl.tracking.store import Store, TrackingError


@pytest.fixture
def candidate(store: Store, data: str, exported: Path, make_candidate: MakeCandidate) -> Candidate:
    """A finished run with its exported model, 0.5 on validation."""
    return make_candidate(store, exported, data)


def _promote(store: Store, code: ModelCode, *candidates: Candidate, split: str = "s1", metric: str = "ciou50") -> Any:
    return promote(store, candidates, candidates[0].data, 0.03, split, metric, code)


def test_cards_are_the_versions_and_the_champions_is_the_models(
    store: Store, code: ModelCode, candidate: Candidate
) -> None:
    """The page of the registered model describes its champion; what is found by tag is tagged."""
    name = model_name(candidate.data, 0.03)
    for score in (0.5, 0.6):
        scored = replace(candidate, model_hash=str(score), score=score)
        describe = "# {0.score} {1}".format
        promote(store, [scored], candidate.data, 0.03, "s1", "ciou50", code, describe=describe)
    versions = [store.client.get_model_version(name, version) for version in ("1", "2")]
    cards = [f"# {score} {version.tags['evidence']}" for score, version in zip((0.5, 0.6), versions, strict=True)]
    assert [version.description for version in versions] == cards
    model = store.client.get_registered_model(name)
    assert model.description == cards[1]
    assert model.tags == {"data": candidate.data, "label_ratio": "0.03"}
    roll_back(store, name, "why not")
    assert store.client.get_registered_model(name).description == cards[0]


def test_a_fetched_model_is_the_exported_one(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """What was exported comes back byte for byte."""
    with (
        pytest.raises(TrackingError, match=facts("fetched")),
        model_folder(store, f"models:/{model_name(candidate.data, 0.03)}@champion"),
    ):
        pass
    _promote(store, code, candidate)
    with model_folder(store, f"models:/{model_name(candidate.data, 0.03)}@champion") as (folder, _):
        assert hash_model(folder) == candidate.model_hash


def test_a_second_version_of_one_model_never_leads(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """As a process leaves it that is killed while two register the same: the first goes on being the one."""
    name = model_name(candidate.data, 0.03)
    _promote(store, code, candidate)
    tags = store.client.get_model_version(name, "1").tags
    store.client.create_model_version(name, "s3://elsewhere/model", tags=tags | {"validation_score": "0.9"})
    assert _promote(store, code, candidate).action == "kept"
    better = _promote(store, code, replace(candidate, model_hash="better", score=0.6))
    assert (better.version, better.previous) == ("3", "1")
