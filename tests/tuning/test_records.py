"""What MLflow is told of a search."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from avsl.config import Config, compose
from avsl.tracking.runs import TrackingError, open_store
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
            with pytest.raises(TrackingError, match="MLflow has not answered yet"):
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
