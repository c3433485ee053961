"""The training step."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence

import yaml

from avsl.build import code_hash, describe_model, steps_per_epoch
from avsl.config.compose import compose
from avsl.config.models import Config, without_resumable_keys
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.evaluation.maps import compute_maps
from avsl.evaluation.scoring import METRIC, score_part
from avsl.evaluation.thresholds import choose_presence, choose_thresholds, choose_without_boxes
from avsl.files import project_root, write_text
from avsl.models import save_exported
from avsl.models.hashing import hash_model
from avsl.paths import Layout
from avsl.records import RunRecord, ValidationScores
from avsl.stages.prepare import load_data, say_where
from avsl.stages.seeds import forget_other_seeds, of_every_seed, side_by_side
from avsl.tracking.runs import Recorder, RunTags, git_commit, start_or_resume_run
from avsl.tracking.store import open_store
from avsl.training.checkpoint import find_checkpoint
from avsl.training.logger import write_history
from avsl.training.loop import (
    check_accelerator,
    check_labels,
    check_warm_ups,
    fit_on_all_devices,
    identity,
    sole_training,
)

log = logging.getLogger(__name__)


def train_seeds(overrides: Sequence[str] = ()) -> None:
    """Train one cell (framework, objective, label ratio) with all seeds of the matrix in parallel.

    A seed whose training has the same settings, split, start weights and code is kept.
    """
    config, seeds = compose(overrides), of_every_seed(overrides)
    forget_other_seeds(Layout.of(config).cell, list(seeds))
    tasks = {f"seed {seed}": (asked,) for seed, asked in seeds.items()}
    side_by_side("avsl.stages.train:train_if_changed", tasks, config)


def train_if_changed(overrides: Sequence[str] = ()) -> None:
    """Train unless a training of the same settings, split, start weights and code exists."""
    config = compose(overrides)
    layout = Layout.of(config)
    _, split = load_data(layout)
    trained = RunRecord.find(layout.train)
    if trained is not None and trained.identity == identity(config, split, layout.start):
        log.info("%s is kept: settings, split, start weights and code are the same", layout.train)
    else:
        train(overrides)


def train(overrides: Sequence[str] = ()) -> None:
    """Train a framework with an objective at one label ratio, from its checkpoint if it has one."""
    config = compose(overrides)
    check_accelerator(config.trainer)
    layout = Layout.of(config)
    if config.variant.train:
        say_where(config, layout.base)
    data, split = load_data(layout)
    if (former := RunRecord.find(layout.train)) is not None and former.config_hash != config.training_hash():
        # Settings of params.yaml have changed since: those of a run by hand have a folder apart.
        log.warning(
            "%s holds a model of other settings (seed %d, %d epochs), which this training will replace; root=FOLDER "
            "keeps both",
            layout.train,
            former.seed,
            former.epochs,
        )
    # Before a run is opened: a training that is refused leaves none.
    check_warm_ups(config, steps_per_epoch(config, split) * config.trainer.epochs)
    check_labels(config, split)
    with sole_training(layout.checkpoint):
        store = open_store(config.tracking, config.root)
        run_id = find_checkpoint(layout.checkpoint, identity(config, split, layout.start))
        tags = RunTags(
            framework=config.framework.name,
            objective=config.objective.name,
            label_ratio=config.split.label_ratio,
            seed=config.seed,
            data_hash=split.data_hash,
            split_hash=split.content_hash,
            git_commit=git_commit(project_root()),
            dvc_stage=f"train@{layout.method}-{layout.ratio}",
        )
        name = f"{layout.method} {layout.ratio} seed {config.seed}"
        params = without_resumable_keys(config.model_dump(mode="json"))  # MLflow keeps a parameter's first value
        with start_or_resume_run(store, config.data.name, name, tags, params, run_id) as run:
            origin = {"command": shlex.join(["avsl", "train", *overrides]), "git_commit": tags.git_commit}
            train_and_export(config, data, split, run, origin, resume=run_id is not None)


def _some(ids: Sequence[str]) -> Sequence[str]:
    """Select up to a thousand evenly spaced samples, enough to estimate a model's confidence."""
    return ids[:: -(-len(ids) // 1000)]


def train_and_export(
    config: Config, data: PreparedData, split: Split, run: Recorder, origin: Mapping[str, str], resume: bool
) -> None:
    """Train and leave in the layout's folder what the steps after it need.

    Args:
        config: what and how; its ``root`` says where.
        data: the prepared set.
        split: the labeled and unlabeled samples.
        run: records every epoch and the folder of results.
        origin: the command and the commit, kept with the model.
        resume: whether to go on from the layout's checkpoint.

    Raises:
        TrainingError: another training uses the same folder, or a step was not finite.
    """
    layout = Layout.of(config)
    module, epochs, reader = fit_on_all_devices(config, data, split, run, layout.checkpoint, resume, layout.start)
    members = [member.float().eval() for member in module.exported.models()]
    rows = data.rows_of(split.validation or _some([*split.labeled, *split.unlabeled]))
    maps = compute_maps(members, reader, rows, config.evaluate.batch_size)
    validation = None
    if split.validation:
        thresholds = choose_thresholds(maps)
        figures = score_part("validation", maps, thresholds.fixed, thresholds.rows).figures
        figures["cross_fitted"] = thresholds.cross_fitted
        validation = ValidationScores(**{name: figures[name] for name in ValidationScores.model_fields})
        threshold, presence = thresholds.fixed, choose_presence(maps)
    else:
        threshold, presence = choose_without_boxes(maps)
    description = describe_model(module.ensemble(), data, threshold, presence, config.data.name)
    shutil.rmtree(layout.train, ignore_errors=True)
    save_exported(layout.train / "model", module.ensemble(), description)
    settings = config.model_dump(mode="json", exclude={"root", "variant"})
    write_text(layout.train / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    write_history(layout.train / "curves.csv", epochs.history)
    if validation is not None:
        run.log_epoch({"validation/ciou": validation.ciou, "validation/auc": validation.auc}, len(epochs.history))
    run.log_folder(layout.train)
    RunRecord(
        run_id=run.run_id,
        framework=config.framework.name,
        objective=config.objective.name,
        label_ratio=config.split.label_ratio,
        seed=config.seed,
        epochs=config.trainer.epochs,
        metric=METRIC,
        command=origin["command"],
        git_commit=origin["git_commit"],
        config_hash=config.training_hash(),
        split_hash=split.content_hash,
        data_hash=split.data_hash,
        code_hash=code_hash(config),
        identity=identity(config, split, layout.start),
        model_hash=hash_model(layout.train / "model"),
        validation=validation,
        threshold_rule="coverage" if validation is None else "validation",
        train_seconds=round(epochs.seconds, 1),
        labeled=len(split.labeled),
    ).save(layout.train)
    shutil.rmtree(layout.state, ignore_errors=True)
