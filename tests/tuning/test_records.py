"""What MLflow is told of a search."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.fixtures.messages import facts

from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.tracking.runs import TrackedRun
from avsl.tracking.store import TrackingError, open_store
from avsl.tuning.config import read_requests
from avsl.tuning.records import Origin, Records
from avsl.tuning.study import Study


@pytest.mark.slow
def test_news_of_a_trial_that_is_written_already_add_nothing(project: Path) -> None:
    """Its last epoch and its end may be heard of at once: the curve of the best has one point for each trial."""
    (request,) = read_requests(["tune=small", "framework=mean_teacher"])
    study = Study(project / "search", request, {}, {"mean_teacher": request.defaults("mean_teacher")})
    trial = study.next()
    assert trial
    study.epoch(trial.number, 1, 0.2, {"val/ciou": 0.2})
    study.complete(trial.number, 0.3, 1.0)
    config = compose(["framework=mean_teacher"])
    records = Records(study, Origin(config, "d", "s", "c", "0.5"), lambda t: Config.read(t.config, ""), {"space": {}})
    deadline = time.monotonic() + 240
    while not study.trial(trial.number).recorded:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    records.changed(trial.number)
    assert records.close(20) == []
    _, parent = records.parent()
    client, run = open_store(config.tracking, config.root).client, study.trial(trial.number).run_id
    assert run
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for run_id, name in ((parent.run_id, "best/ciou"), (run, "val/ciou"), (run, "validation/ciou"))
    }
    assert points == {"best/ciou": [(1, 0.3)], "val/ciou": [(1, 0.2)], "validation/ciou": [(1, 0.3)]}


def _search(project: Path, trials: int) -> tuple[Study, Records]:
    """A search with so many finished trials, and its records."""
    (request,) = read_requests(["tune=small", "framework=mean_teacher"])
    study = Study(project / "search", request, {}, {"mean_teacher": request.defaults("mean_teacher")})
    for _ in range(trials):
        trial = study.next()
        assert trial
        study.complete(trial.number, 0.3, 1.0)
    origin = Origin(compose(["framework=mean_teacher"]), "d", "s", "c", "0.5")
    return study, Records(study, origin, lambda t: Config.read(t.config, ""), {"space": {}})


@pytest.mark.slow
def test_tags_that_cannot_be_written_at_once_are_written_later(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails in between: no run stays without its tags, and none is opened twice."""
    set_tags, failed = TrackedRun.set_tags, set[str]()

    def failing_once(self: TrackedRun, tags: Mapping[str, str]) -> None:
        if tags.get("kind") and self.run_id not in failed:
            failed.add(self.run_id)
            raise TrackingError("away for a moment")
        set_tags(self, tags)

    monkeypatch.setattr(TrackedRun, "set_tags", failing_once)
    study, records = _search(project, 1)
    assert records.close(60) == []
    store, parent = records.parent()
    child = study.trial(0).run_id
    assert child
    assert failed == {parent.run_id, child}
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert {run.info.run_id for run in store.client.search_runs(experiments)} == failed
    assert store.client.get_run(parent.run_id).data.tags["kind"] == "sweep"
    tags = store.client.get_run(child).data.tags
    assert (tags["mlflow.parentRunId"], tags["kind"], tags["trial"]) == (parent.run_id, "trial", "0")


@pytest.mark.slow
def test_a_session_ends_with_a_state_for_every_trial(project: Path) -> None:
    """One that it leaves unfinished is interrupted; one that failed before its first epoch has no score."""
    study, records = _search(project, 0)
    unfinished, failing = study.next(), study.next()
    assert unfinished
    assert failing
    study.epoch(unfinished.number, 1, 0.2, {"val/ciou": 0.2})
    study.fail(failing.number, "RuntimeError: out of memory")
    for trial in (unfinished, failing):
        records.changed(trial.number)
    deadline = time.monotonic() + 240
    while not (study.trial(unfinished.number).run_id and study.trial(failing.number).recorded):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert records.close(20) == []
    store, parent = records.parent()
    found = {n: store.client.get_run(str(study.trial(n).run_id)) for n in (unfinished.number, failing.number)}
    assert {n: (run.info.status, run.data.tags["state"]) for n, run in found.items()} == {
        unfinished.number: ("KILLED", "interrupted"),
        failing.number: ("FAILED", "failed"),
    }
    assert "trial/ciou" not in store.client.get_run(parent.run_id).data.metrics


def test_a_store_that_never_answers_is_not_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just being written counts as missing, and nobody begins it a second time."""
    asked, over = threading.Event(), threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if self.path != "/health":
                asked.set()
                over.wait(240)
            self.send_response(200)
            self.end_headers()

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name in ("do_GET", "do_POST"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "240")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _, records = _search(project, 1)
        try:
            assert asked.wait(120)
            assert records.close(0.1, 0.1) == [0]
            with pytest.raises(TrackingError, match=facts("MLflow")):
                records.parent()
        finally:
            over.set()
            server.shutdown()


@pytest.mark.slow
def test_a_slow_store_is_not_waited_for_without_end(project: Path) -> None:
    """When the time is over the trial that is being written is the last; what is missing is told."""
    study, records = _search(project, 3)
    assert records.close(0, 0) == [0, 1, 2]
    deadline = time.monotonic() + 240
    parent = None
    while parent is None:
        assert time.monotonic() < deadline
        with contextlib.suppress(TrackingError):
            parent = records.parent()
        time.sleep(0.05)
    assert [trial.recorded for trial in study.trials()] == [True, False, False]
