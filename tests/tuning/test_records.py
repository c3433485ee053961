"""What MLflow is told of a search."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from avsl.config import Config, compose
from avsl.tracking.runs import open_store
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
