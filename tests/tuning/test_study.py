"""The search's truth: proposals, ends, and what a second session finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fixtures.messages import facts, says

from avsl.tuning.config import Request, read_requests
from avsl.tuning.execution import first_rung, make_scheduler
from avsl.tuning.space import Value
from avsl.tuning.study import Study, SweepError, alone

Open = Callable[..., Study]


@pytest.fixture(scope="module")
def requests(make_project: Callable[[], Path]) -> Callable[..., Request]:
    """What a command line asks for, in a project."""
    project = make_project()

    def read(*overrides: str) -> Request:
        (request,) = read_requests(["tune=small", *overrides], project)
        return request

    return read


@pytest.fixture(scope="module")
def defaults() -> Callable[[Request, str], Mapping[str, Value]]:
    """Each framework's values without a search; composed once, as that takes the time here."""
    known: dict[str, Mapping[str, Value]] = {}

    def get(request: Request, framework: str) -> Mapping[str, Value]:
        key = f"{framework} {sorted(request.space(framework))}"
        if key not in known:
            known[key] = request.defaults(framework)
        return known[key]

    return get


@pytest.fixture
def open_study(
    tmp_path: Path, requests: Callable[..., Request], defaults: Callable[[Request, str], Mapping[str, Value]]
) -> Open:
    """Opens the search in one folder, as a session does; its data are those of ``stated``."""

    def open_(*overrides: str, stated: str = "a") -> Study:
        request = requests(*overrides)
        named = request.tune.frameworks
        return Study(tmp_path, request, {"split": stated}, {name: defaults(request, name) for name in named})

    return open_


def test_defaults_come_first_and_then_as_many_as_asked_for(open_study: Open, requests: Callable[..., Request]) -> None:
    """Each framework's own values, then proposals of both frameworks; none is left after the last."""
    study = open_study("tune.trials=7", "tune.startup=20")
    trials = []
    while (trial := study.next()) is not None:
        trials.append(trial)
        study.complete(trial.number, 0.1, 2.0)
    assert [trial.number for trial in trials] == list(range(7))
    assert study.remaining() == 0
    for trial in trials[:2]:
        assert trial.default
        assert trial.values == requests().defaults(trial.framework)
    assert [trial.framework for trial in trials[:2]] == ["dmt", "xpl"]
    assert not any(trial.default for trial in trials[2:])
    assert {trial.framework for trial in trials[2:]} == {"dmt", "xpl"}
    for trial in trials:
        assert set(trial.values) == set(requests().space(trial.framework))
    assert len({str(trial.values) for trial in trials}) == 7


def test_a_second_session_goes_on_where_the_first_was_killed(open_study: Open) -> None:
    """What ended stays so, with its epochs; what ran comes first, with its values; nothing is drawn twice."""
    first = open_study("tune.trials=8", "tune.sampler=random")
    complete, stopped, failed, running = (first.next() for _ in range(4))
    assert complete
    assert stopped
    assert failed
    assert running
    for number, score in ((complete.number, 0.4), (stopped.number, 0.2), (running.number, 0.3)):
        first.epoch(number, 1, score, {"val/ciou": score, "train/loss": 1.0})
    first.complete(complete.number, 0.5, 3.0)
    first.stop(stopped.number, "poor")
    first.fail(failed.number, "broken")

    second = open_study("tune.trials=8", "tune.sampler=random", "tune.resume=true")
    assert second.remaining() == 5
    seen = {trial.number: trial for trial in second.trials()}
    assert [(seen[k].state, seen[k].score, seen[k].reason) for k in range(4)] == [
        ("complete", 0.5, ""),
        ("stopped", 0.2, "poor"),
        ("failed", None, "broken"),
        ("interrupted", 0.3, ""),
    ]
    assert seen[0].epochs == {1: {"val/ciou": 0.4, "train/loss": 1.0}}
    assert second.best() == seen[0]
    assert seen[0].seconds == 3.0
    again = second.next()
    assert again
    assert (again.number, again.values, again.framework) == (running.number, running.values, running.framework)
    later = [second.next() for _ in range(4)]
    assert [trial.number for trial in later if trial] == [4, 5, 6, 7]
    assert second.next() is None
    values = [str(trial.values) for trial in second.trials()]
    assert len(set(values)) == len(values)


def test_a_proposal_that_was_killed_half_way_is_drawn_to_its_end(open_study: Open) -> None:
    """Defaults stay defaults, what was drawn stays drawn, no trial is lost; until then it is none of the trials."""
    options = ("tune.trials=4", "tune.sampler=random")
    first = open_study(*options)
    first._study.ask()  # and killed before anything is known of it
    second = open_study(*options, "tune.resume=true")
    assert second.trials() == []
    trials = [second.next() for _ in range(2)]
    assert [(trial.number, trial.framework, trial.default) for trial in trials if trial] == [
        (0, "dmt", True),
        (1, "xpl", True),
    ]
    drawn = second._study.ask().suggest_categorical("framework", ["dmt", "xpl"])  # killed between two draws
    third = open_study(*options, "tune.resume=true")
    assert [trial.number for trial in third.trials()] == [0, 1]
    later = [third.next() for _ in range(4)]
    assert [trial.number for trial in later if trial] == [0, 1, 2, 3]
    assert later[2]
    assert later[2].framework == drawn
    assert third.next() is None
    assert {trial.state for trial in third.trials()} == {"interrupted"}


def test_a_proposal_that_no_configuration_can_have_fails_and_the_search_goes_on(
    open_study: Open, requests: Callable[..., Request]
) -> None:
    """A curriculum must not start above its end: such a proposal has the configuration's own sentence as its reason."""
    end = "tune.spaces.xpl.pacing.end={kind: float, low: 0.2, high: 1.0}"
    study = open_study("framework=xpl", "tune.trials=8", "tune.sampler=random", end)
    proposed = 0
    while (trial := study.next()) is not None:
        values = trial.values
        assert float(values["framework.xpl.pacing.start"]) <= float(values["framework.xpl.pacing.end"])
        study.complete(trial.number, 0.1, 2.0)
        proposed += 1
    failed = [trial for trial in study.trials() if trial.state == "failed"]
    assert failed
    assert proposed + len(failed) == 8
    assert all(says(trial.reason, "pacing.end") for trial in failed)


def test_a_search_is_not_mixed_up_with_another(open_study: Open, tmp_path: Path) -> None:
    """A second one in its place, other data, a second driver: one sentence each."""
    open_study()
    with pytest.raises(SweepError, match=facts("tune.resume=true")):
        open_study()
    with pytest.raises(SweepError, match=facts("split")):
        open_study("tune.resume=true", stated="b")
    with alone(tmp_path), pytest.raises(SweepError, match=facts("sweep")), alone(tmp_path):
        pass


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough to be read as one" * 40])
def test_a_damaged_study_is_told_and_never_started_again(open_study: Open, tmp_path: Path, damage: bytes) -> None:
    """Emptied or overwritten, the search is not begun anew in silence."""
    open_study()
    (tmp_path / "study.db").write_bytes(damage)
    with pytest.raises(SweepError, match=facts("study.db")):
        open_study("tune.resume=true")


def _ask(scheduler: Any, name: str, epoch: int, score: float, *, default: bool = False, new: bool = False) -> str:
    """What a scheduler says of a trial's epoch."""
    trial = SimpleNamespace(trial_id=name, config={"default": default})
    if new:
        scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {"epoch": epoch, "ciou": score}))


def test_nobody_is_judged_before_the_longest_warm_up_that_a_trial_can_have(requests: Callable[..., Request]) -> None:
    """Searched up to 8 steps, fixed, or a share of the four epochs: the epochs of the longest, and the grace of one."""

    def first(*overrides: str, steps_per_epoch: int) -> int:
        request = requests("framework=dmt,xpl", *overrides)
        return first_rung(request, {f: request.config(f, {}) for f in ("dmt", "xpl")}, steps_per_epoch)

    assert first(steps_per_epoch=8) == 2
    assert first(steps_per_epoch=7) == 3
    assert first("framework.xpl.warmup_steps=20", steps_per_epoch=8) == 4
    assert first("framework.dmt.warmup_steps=4", "framework.xpl.warmup_steps=0", steps_per_epoch=4) == 2
    assert first("framework.xpl.warmup_steps=0.5", steps_per_epoch=8) == 3
    assert first("objective=fnac", "objective.fnac.warmup_steps=20", steps_per_epoch=8) == 4


def test_poor_trials_are_stopped_after_the_warm_up_and_defaults_never(requests: Callable[..., Request]) -> None:
    """At the first rung the worse half goes, but for the defaults; before it nobody does."""
    scheduler = make_scheduler(requests().tune.scheduler, first=3, epochs=6, past=[])
    stopped = {}
    for epoch in range(1, 7):
        new = epoch == 1
        assert _ask(scheduler, "good", epoch, 0.5, new=new) == "CONTINUE"
        assert _ask(scheduler, "default", epoch, 0.1, default=True, new=new) == "CONTINUE"
        if "poor" not in stopped and _ask(scheduler, "poor", epoch, 0.1, new=new) == "STOP":
            stopped["poor"] = epoch
    assert stopped == {"poor": 3}


def test_no_trial_is_stopped_at_its_last_epoch(requests: Callable[..., Request]) -> None:
    """A rung that falls on it judges nobody: all that is left is the export."""
    scheduler = make_scheduler(requests().tune.scheduler, first=2, epochs=4, past=[])
    assert _ask(scheduler, "good", 4, 0.5, new=True) == "CONTINUE"
    assert _ask(scheduler, "poor", 4, 0.1, new=True) == "CONTINUE"


def test_trials_of_an_earlier_session_are_held_against_new_ones(open_study: Open) -> None:
    """A resumed search stops what the first session would have stopped."""
    study = open_study("framework=dmt")
    trial = study.next()
    assert trial
    for epoch in range(1, 5):
        study.epoch(trial.number, epoch, 0.5, {"val/ciou": 0.5})
    halving = study.request.tune.scheduler
    assert _ask(make_scheduler(halving, 2, 4, []), "poor", 2, 0.1, new=True) == "CONTINUE"
    assert _ask(make_scheduler(halving, 2, 4, study.trials()), "poor", 2, 0.1, new=True) == "STOP"
