"""The second look at a search's best trials: each is trained with the matrix's other seeds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from avsl.cluster import Interrupt
from avsl.config.compose import as_override
from avsl.config.models import Config
from avsl.config.params import matrix_seeds
from avsl.console import print_table
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.stages.prepare import split
from avsl.stages.seeds import call_side_by_side
from avsl.stages.start import STUDENTS
from avsl.tuning.config import Request
from avsl.tuning.study import Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Confirmed:
    """A trial that was trained with several seeds.

    Attributes:
        trial: its number.
        scores: validation CIoU@0.5 in [0, 1] by seed; the search's own seed comes first.
    """

    trial: int
    scores: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over all seeds."""
        return fmean(self.scores.values())

    @property
    def luck(self) -> float:
        """The search's score less the mean over the other seeds: what the choice among trials has selected."""
        first, *others = self.scores.values()
        return first - fmean(others)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the trial's run in MLflow."""
        return {"seeds/ciou": self.mean, "seeds/luck": self.luck}

    def as_json(self) -> dict[str, Any]:
        """The entry in ``result.json``."""
        return {"trial": self.trial, "scores": dict(self.scores), "mean": self.mean, "luck": self.luck}


def confirm(
    request: Request,
    config: Config,
    storage: Path,
    trials: Sequence[Trial],
    ship: Callable[[Trial], Mapping[str, Any]],
    interrupt: Interrupt,
) -> list[Confirmed]:
    """Train the best trials with the other seeds of ``matrix.seeds``, side by side on the cluster of the sweep.

    A training that is there is kept, and an interrupted one continues from its checkpoint.

    Args:
        request: the search; ``tune.confirm`` of its trials are trained.
        config: its configuration, with the seed that its trials have.
        storage: the folder of its data, splits and start weights.
        trials: all trials of the search.
        ship: makes the argument of `avsl.tuning.trial.run_trial` from a trial.
        interrupt: the person's request to end.

    Returns:
        The trials by falling mean, the earlier of equals first; none where the matrix has no other seed. A trial of
        which a training failed is left out, with a warning.
    """
    seeds = [seed for seed in matrix_seeds(request.project) if seed != config.seed]
    ranked = sorted(trials, key=lambda trial: (-(trial.score or 0.0), trial.number))
    best = [trial for trial in ranked if trial.state == "complete"][: request.tune.confirm]
    if not seeds or not best or interrupt.requested:
        return []
    log.info("the best %d trials are trained with the seeds %s too", len(best), ", ".join(map(str, seeds)))
    base = [*request.base(request.tune.frameworks[0]), as_override("root", str(storage))]
    overrides = {seed: [*base, as_override("seed", seed)] for seed in seeds}
    for asked in overrides.values():
        split(asked)
    resources = request.tune.resources
    share = (resources.cpu, resources.gpu, request.tune.retries, interrupt)
    if config.start.epochs:
        starts = {f"start of seed {s} student {k}": (asked, k) for s, asked in overrides.items() for k in STUDENTS}
        if call_side_by_side("avsl.stages.start:start_student", starts, *share):
            return []
    tasks = {(trial.number, seed): of_seed(ship(trial), seed) for trial in best for seed in (config.seed, *seeds)}
    named = {f"trial {number} seed {seed}": (shipped,) for (number, seed), shipped in tasks.items() if seed in seeds}
    failures = call_side_by_side("avsl.tuning.trial:train_again", named, *share)
    if interrupt.requested:
        return []
    found = []
    for number in dict.fromkeys(number for number, _ in tasks):
        if not any(f"trial {number} seed {seed}" in failures for seed in seeds):
            scores = {seed: _score(tasks[number, seed]) for seed in (config.seed, *seeds)}
            found.append(Confirmed(number, scores))
    return sorted(found, key=lambda confirmed: (-confirmed.mean, confirmed.trial))


def _score(shipped: Mapping[str, Any]) -> float:
    """Validation CIoU@0.5 of a training."""
    validation = RunRecord.load(Layout.of(Config.read(shipped["config"], "")).train).validation
    assert validation is not None  # a trial without validation rows fails
    return validation.ciou


def of_seed(shipped: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Replace the seed in a trial's argument: its configuration, split and start weights."""
    return {
        **shipped,
        "config": {**shipped["config"], "seed": seed},
        "split": str(Path(shipped["split"]).with_name(f"{seed}.json")),
        "start": str(Path(shipped["start"]).with_name(str(seed))),
    }


def print_confirmed(confirmed: Sequence[Confirmed], title: str) -> None:
    """The trials with their first score, their mean over seeds, and how much of the first score was luck."""
    rows = [
        {
            "trial": str(trial.trial),
            "search": f"{100 * next(iter(trial.scores.values())):.1f}",
            "mean": f"{100 * trial.mean:.1f}",
            "luck": f"{100 * trial.luck:+.1f}",
            "by seed": "  ".join(f"{seed}: {100 * score:.1f}" for seed, score in trial.scores.items()),
        }
        for trial in confirmed
    ]
    print_table(rows, title)
