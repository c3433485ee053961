"""Rebuilds the registry from the outputs of the DAG's stages, as `dvc pull` fetches them on another machine."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from avsl.config.compose import compose
from avsl.config.models import Config, without_resumable_keys
from avsl.errors import DataError
from avsl.paths import Layout
from avsl.records import RunRecord, load_evaluated
from avsl.registry.rules import Candidate
from avsl.stages.evaluate import log_evaluation
from avsl.stages.register import decide, read_candidates
from avsl.tracking.cells import link_seeds
from avsl.tracking.runs import RESTORED_FROM, RunTags, TrackedRun, find_run, start_or_resume_run
from avsl.tracking.store import Store, open_store

log = logging.getLogger(__name__)


def restore(overrides: Sequence[str] = ()) -> None:
    """Rebuild the registry: give every label ratio with a registration its champion, by the rules of `register`.

    Missing runs are recorded again from their curves, scores and files, with the tag ``restored_from``; each cell's
    runs get a parent run, and champions get a version. A second call adds nothing; a call after a kill adds the rest.
    Models that are no longer among the outputs are not restored: earlier versions, and a champion whose training was
    replaced.

    Raises:
        DataError: nothing has been registered, or a file that the stages leave is missing.
        TrackingError: the store fails, or a ratio gets no champion.
    """
    config = compose(overrides)
    folder = Layout.of(config).registered.parent
    ratios = sorted(path.stem for path in folder.glob("*.json"))
    if not ratios:
        raise DataError(f"{folder} holds no registration: `dvc pull` brings a commit's, `dvc repro` makes them")
    store = replace(open_store(config.tracking, config.root), system_metrics=False)
    for ratio in ratios:
        of_ratio = compose([*overrides, f"split.label_ratio={ratio}"])
        recorded = [_recorded(of_ratio, store, candidate) for candidate in read_candidates(of_ratio)]
        cells: dict[str, list[str]] = {}
        for candidate in recorded:
            cells.setdefault(f"{candidate.framework}-{candidate.objective} {ratio}", []).append(candidate.run_id)
        for name, run_ids in cells.items():
            link_seeds(store, name, run_ids)
        decide(of_ratio, store, recorded)


def _recorded(config: Config, store: Store, candidate: Candidate) -> Candidate:
    """Return the candidate with a run in the store: its own, or one recorded from its stages' outputs."""
    found = find_run(store, candidate.data, candidate.run_id)
    if found is None or (found.run_id != candidate.run_id and found.status != "FINISHED"):
        run_id = _record(config, store, candidate, None if found is None else found.run_id)
    else:
        run_id = found.run_id
    return replace(candidate, run_id=run_id)


def _record(config: Config, store: Store, candidate: Candidate, unfinished: str | None) -> str:
    """Record a training and its evaluation again, or finish what a killed call began; returns the run."""
    layout = Layout.of(config)
    trained = candidate.model_dir.parent
    params = without_resumable_keys(yaml.safe_load((trained / "config.yaml").read_text()))
    method, seed = trained.parts[-2:]
    evaluation = layout.evaluations / method / seed
    how, scores = load_evaluated(trained, evaluation)
    tags = RunTags(
        framework=candidate.framework,
        objective=candidate.objective,
        label_ratio=candidate.label_ratio,
        seed=how.seed,
        data_hash=how.data_hash,
        split_hash=how.split_hash,
        git_commit=how.git_commit,
        dvc_stage=f"train@{method}-{layout.ratio}",
    )
    name = f"{method} {layout.ratio} seed {how.seed}"
    with start_or_resume_run(store, candidate.data, name, tags, params, unfinished) as run:
        run.set_tags({RESTORED_FROM: candidate.run_id})
        log_training(run, how, trained)
        log_evaluation(run, scores, evaluation, how.epochs)
    log.info("run %s of %s is recorded again as %s", candidate.run_id, name, run.run_id)
    return run.run_id


def log_training(run: TrackedRun, how: RunRecord, trained: Path) -> None:
    """Record the outputs of a training: curves, validation scores and files."""
    with (trained / "curves.csv").open(newline="") as file:
        curves = [{key: float(value) for key, value in line.items() if value} for line in csv.DictReader(file)]
    for line in curves:
        epoch = int(line.pop("epoch"))
        run.log_epoch(line, epoch)
    if how.validation is not None:
        run.log_epoch({"validation/ciou": how.validation.ciou, "validation/auc": how.validation.auc}, len(curves))
    run.log_folder(trained)
