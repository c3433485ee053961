"""Promotion on a real registry."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from tests.fixtures.messages import facts, says
from tests.fixtures.store import MakeCandidate

from avsl.models.hashing import hash_model
from avsl.registry.promotion import promote, promote_by_hand, roll_back
from avsl.registry.rules import Candidate, model_name
from avsl.registry.versions import ModelCode, model_folder
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingConfig, TrackingError, open_store


@pytest.fixture
def candidate(store: Store, data: str, exported: Path, make_candidate: MakeCandidate) -> Candidate:
    """A finished run with its exported model, 0.5 on validation."""
    return make_candidate(store, exported, data)


def _promote(store: Store, code: ModelCode, *candidates: Candidate, split: str = "s1", metric: str = "ciou50") -> Any:
    return promote(store, candidates, candidates[0].data, 0.03, split, metric, code)


def _versions(store: Store, name: str) -> set[str]:
    return {str(version.version) for version in store.client.search_model_versions(f"name = '{name}'")}


def test_promotion_through_a_models_life(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """First, again, equal, worse, better, another split, and back."""
    name = model_name(candidate.data, 0.03)
    first = _promote(store, code, candidate)
    assert (first.action, first.version, first.previous) == ("promoted", "1", None)
    tags = store.client.get_model_version_by_alias(name, "champion").tags
    assert (tags["framework"], tags["objective"]) == ("dmt", "ezvsl")
    assert tags["run_id"] == candidate.run_id
    assert tags["model_hash"] == candidate.model_hash
    assert (tags["metric"], tags["validation_score"], tags["split_hash"]) == ("ciou50", "0.5", "s1")
    assert tags["test.ciou50"] == "0.25"
    assert store.client.get_model_version(name, "1").run_id == candidate.run_id
    # The run was finished and stays so.
    assert store.client.get_run(candidate.run_id).info.status == "FINISHED"

    again = _promote(store, code, candidate)
    assert (again.action, again.version, _versions(store, name)) == ("kept", "1", {"1"})

    for score in (0.5, 0.4):
        challenger = replace(candidate, model_hash=f"other {score}", score=score)
        kept = _promote(store, code, challenger)
        assert (kept.action, kept.version, _versions(store, name)) == ("kept", "1", {"1"})

    better = replace(candidate, framework="xpl", model_hash="better", score=0.6)
    second = _promote(store, code, candidate, better)
    assert (second.action, second.version, second.previous) == ("promoted", "2", "1")
    assert str(store.client.get_model_version_by_alias(name, "previous").version) == "1"
    assert says(store.client.get_model_version(name, "1").tags["superseded_because"], "0.6 0.5")

    # Another split: incomparable, so even a worse one takes over; then the first split comes back with its old model.
    moved = replace(candidate, model_hash="moved", score=0.2, split_hash="s2")
    third = _promote(store, code, moved, split="s2")
    assert (third.version, third.previous) == ("3", "2")
    assert says(store.client.get_model_version(name, "2").tags["superseded_because"], "s2 s1")
    back = _promote(store, code, better)
    assert (back.action, back.version, back.previous) == ("promoted", "2", "3")
    assert _versions(store, name) == {"1", "2", "3"}
    assert "superseded_because" not in store.client.get_model_version(name, "2").tags


def test_a_persons_choice_outlives_registration_until_a_better_model_comes(
    store: Store, code: ModelCode, candidate: Candidate
) -> None:
    """By hand and back, each with its reason in the tags; what was known then does not undo it."""
    name = model_name(candidate.data, 0.03)
    better, best = (replace(candidate, framework=f, model_hash=f, score=s) for f, s in (("xpl", 0.6), ("other", 0.8)))
    for known in (candidate, better, best):
        _promote(store, code, known)

    def tags(version: str) -> dict[str, str]:
        return dict(store.client.get_model_version(name, version).tags)

    chosen = promote_by_hand(store, name, "1", " smaller ")
    assert (chosen.action, chosen.version, chosen.previous) == ("promoted", "1", "3")
    assert says(chosen.reason, "1 smaller")
    assert tags("1")["by_hand"] == "smaller"
    assert tags("1")["promoted_because"] == tags("3")["superseded_because"] == chosen.reason
    assert "superseded_because" not in tags("1")

    # Neither what was registered then nor an unregistered one that is not better than it takes over.
    for known in (best, better, replace(candidate, model_hash="0.7", score=0.7)):
        kept = _promote(store, code, known)
        assert (kept.action, kept.version) == ("kept", "1")
        assert says(kept.reason, "smaller")
    assert _versions(store, name) == {"1", "2", "3"}

    back = roll_back(store, name, "it fails on cars")
    assert (back.version, back.previous) == ("3", "1")
    assert says(tags("1")["superseded_because"], "3 it fails on cars")
    assert _promote(store, code, candidate, better, best).action == "kept"
    assert promote_by_hand(store, name, "2", "a try").version == "2"

    newer = _promote(store, code, best, replace(candidate, framework="newest", model_hash="0.9", score=0.9))
    assert (newer.action, newer.version, newer.previous) == ("promoted", "4", "2")
    assert says(tags("2")["superseded_because"], "0.9 0.6")
    # Reasons of the past are still told.
    assert [tags(version)["by_hand"] for version in ("1", "2", "3")] == ["smaller", "a try", "it fails on cars"]


def test_seeds_that_come_later_change_the_rank_of_a_champion(
    store: Store, code: ModelCode, candidate: Candidate, make_candidate: MakeCandidate, exported: Path
) -> None:
    """A lucky single seed gives way to a method with a higher mean over as many seeds; tags and reasons say so."""
    name = model_name(candidate.data, 0.03)
    lucky = replace(candidate, score=0.8)
    _promote(store, code, lucky)
    others = [replace(lucky, run_id=f"seed {seed}", seed=seed, score=0.5) for seed in (1, 2)]
    steady = [
        make_candidate(store, exported, candidate.data, "xpl", seed=seed, score=0.7, model_hash=f"{seed}")
        for seed in range(3)
    ]
    assert _promote(store, code, *steady[:1]).action == "kept"
    decision = _promote(store, code, lucky, *others, *steady)
    assert (decision.action, decision.version, decision.previous) == ("promoted", "2", "1")
    former, champion = (store.client.get_model_version(name, version).tags for version in ("1", "2"))
    assert former["seeds"] == "3"
    assert float(former["validation_level"]) == pytest.approx(0.6)
    assert says(former["superseded_because"], "0.7 0.6 3 seeds")
    assert (champion["framework"], champion["seeds"], champion["seed"]) == ("xpl", "3", "0")
    assert says(champion["evidence"], "xpl-ezvsl 0.7 3 seeds")
    assert _promote(store, code, lucky, *others, *steady).action == "kept"


def test_choices_that_make_no_sense(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """Each is one sentence and changes nothing."""
    name = model_name(candidate.data, 0.03)
    with pytest.raises(TrackingError, match=facts(f"'{name}' sqlite")):
        promote_by_hand(store, name, "1", "why not")
    _promote(store, code, candidate)
    foreign = str(store.client.create_model_version(name, "s3://elsewhere/model").version)
    for which, reason, message in (
        ("1", "why not", f"1 '{name}' champion"),
        ("champion", "why not", f"1 '{name}' champion"),
        ("7", "why not", f"'{name}' '7' 1 2 champion"),
        ("best", "why not", f"'{name}' 'best' 1 2 champion"),
        (foreign, "why not", "label ratio"),
        (foreign, " ", "reason"),
    ):
        with pytest.raises(TrackingError, match=facts(message)):
            promote_by_hand(store, name, which, reason)
    with pytest.raises(TrackingError, match=facts("'previous'")):
        roll_back(store, name, "why not")
    assert store.client.get_registered_model(name).aliases == {"champion": 1}


def test_promotion_killed_before_the_alias_is_completed_without_a_second_version(
    store: Store, code: ModelCode, candidate: Candidate
) -> None:
    """The version that is there already gets the alias."""
    name = model_name(candidate.data, 0.03)
    _promote(store, code, candidate)
    store.client.delete_registered_model_alias(name, "champion")
    done = _promote(store, code, candidate)
    assert (done.action, done.version, _versions(store, name)) == ("promoted", "1", {"1"})


def test_what_cannot_be_promoted(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """Each refusal is one sentence and leaves no version behind."""
    with pytest.raises(TrackingError, match=facts("0.1")):
        _promote(store, code, candidate, replace(candidate, run_id="r", label_ratio=0.1))
    with pytest.raises(TrackingError, match=facts(f"{candidate.run_id} s1 s9")):
        _promote(store, code, candidate, split="s9")
    with pytest.raises(TrackingError, match=facts("updated")):
        _promote(store, code, replace(candidate, run_id="gone"))
    name = model_name(candidate.data, 0.03)
    assert _versions(store, name) == set()
    source = _foreign_version(store, name)
    store.client.set_registered_model_alias(name, "champion", source)
    with pytest.raises(TrackingError, match=facts("avsl")):
        _promote(store, code, candidate)


class _Late(MlflowClient):
    """A client whose first move of the alias comes after all that another process does."""

    def __init__(self, uri: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(uri, uri)
        self._meanwhile: Callable[[], object] | None = meanwhile

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """As MLflow's."""
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile:
            meanwhile()
        super().set_registered_model_alias(name, alias, version)


def test_an_alias_written_too_late_is_put_right(store: Store, code: ModelCode, candidate: Candidate) -> None:
    """Another process promotes a better model between the look and the write: it stays champion, with all reasons."""
    name = model_name(candidate.data, 0.03)
    _promote(store, code, candidate)
    worse, better = (replace(candidate, model_hash=str(score), score=score) for score in (0.6, 0.7))
    late = replace(store, client=_Late(store.uri, lambda: _promote(store, code, better)))
    decision = _promote(late, code, worse)
    assert (decision.version, decision.previous) == ("3", "2")
    versions = {str(found.version): found for found in store.client.search_model_versions(f"name = '{name}'")}
    assert versions["3"].tags["model_hash"] == "0.7"
    assert "superseded_because" not in versions["3"].tags
    assert says(versions["2"].tags["superseded_because"], "0.7 above 0.6")
    assert says(versions["1"].tags["superseded_because"], "above 0.5")


def _foreign_version(store: Store, name: str) -> str:
    store.client.create_registered_model(name)
    return str(store.client.create_model_version(name, "s3://elsewhere/model").version)


@pytest.fixture
def server(tmp_path: Path, serve: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """A real `mlflow server` with its own database and files."""
    store = ("--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "./served")
    with serve(tmp_path, *store) as address:
        yield address


@pytest.mark.slow
def test_runs_and_champions_on_a_server(
    server: str,
    data: str,
    tags: RunTags,
    exported: Path,
    code: ModelCode,
    make_candidate: MakeCandidate,
    tmp_path: Path,
) -> None:
    """Runs, resume, artifacts and promotion work over HTTP as on SQLite."""
    store = open_store(TrackingConfig(uri=server, system_metrics=False), tmp_path)
    assert store.artifact_root is None
    with start_or_resume_run(store, data, "", tags, {"lr": 0.1}) as run:
        run.log_epoch({"loss": 1.0}, 0)
        run.log_file(exported / "model.json")
    resumed = start_or_resume_run(store, data, "", tags, {"lr": 0.1}, run.run_id)
    resumed.log_epoch({"loss": 1.0}, 0)
    resumed.log_epoch({"loss": 0.5}, 1)
    resumed.finish()
    assert [point.step for point in store.client.get_metric_history(run.run_id, "loss")] == [0, 1]
    assert list((tmp_path / "served").rglob(f"{run.run_id}/artifacts/model.json"))

    candidate = make_candidate(store, exported, data)
    assert _promote(store, code, candidate).version == "1"
    assert _promote(store, code, candidate).action == "kept"
    with model_folder(store, f"models:/{model_name(data, 0.03)}@champion") as (folder, _):
        assert hash_model(folder) == candidate.model_hash
    with pytest.raises(TrackingError, match=facts("'nowhere' http")):
        start_or_resume_run(store, data, "", tags, {}, "nowhere")
    assert mlflow.get_tracking_uri() != server  # nothing process-wide was changed


def _take_part(uri: str, root: Path, candidate: Candidate, code: ModelCode, start: Barrier) -> None:
    """A process that registers a candidate at the same moment as others."""
    store = open_store(TrackingConfig(uri=uri, artifact_root=str(root), system_metrics=False), root)
    start.wait(240)
    _promote(store, code, candidate)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["database", "server"])
def test_twenty_processes_promote_at_once(
    where: str,
    request: pytest.FixtureRequest,
    exported: Path,
    code: ModelCode,
    make_candidate: MakeCandidate,
    tmp_path: Path,
) -> None:
    """After the dust settles the best is the one champion, nothing is there twice, and every other has its reason."""
    uri = request.getfixturevalue("server") if where == "server" else request.getfixturevalue("store").uri
    store = open_store(TrackingConfig(uri=uri, artifact_root=str(tmp_path), system_metrics=False), tmp_path)
    data = f"at-once-{where}"
    first = make_candidate(store, exported, data)
    _promote(store, code, first)
    # Each of ten models comes from two processes.
    runs = [make_candidate(store, exported, data).run_id for _ in range(10)]
    candidates = [replace(first, run_id=run, score=0.5 + 0.01 * k) for k, run in enumerate(runs)]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", __name__])
    start = processes.Barrier(20)
    # Daemons end with this process, whatever happens.
    work = [
        processes.Process(target=_take_part, args=(uri, tmp_path, candidate, code, start), daemon=True)
        for candidate in candidates * 2
    ]
    for process in work:
        process.start()
    for process in work:
        process.join(240)
    assert [process.exitcode for process in work] == [0] * 20

    name = model_name(data, 0.03)
    aliases = store.client.get_registered_model(name).aliases
    versions = {str(found.version): found for found in store.client.search_model_versions(f"name = '{name}'")}
    champion = versions[str(aliases["champion"])]
    assert champion.tags["run_id"] == runs[-1]
    assert "superseded_because" not in champion.tags
    assert str(aliases["previous"]) in versions.keys() - {str(champion.version)}
    registered = [found.tags["run_id"] for found in versions.values()]
    assert len(registered) == len(set(registered)) >= 2
    for number in versions.keys() - {str(champion.version)}:
        assert re.search(r"0\.5|first", versions[number].tags["superseded_because"])
    assert first.run_id in registered
