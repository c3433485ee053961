"""Published checkpoints: converted, scored on a data set, recorded and registered, without ever becoming champion."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from avsl.build import describe_model
from avsl.config.compose import compose
from avsl.evaluation.thresholds import choose_presence
from avsl.files import file_hash, project_root
from avsl.models import LocalizerEnsemble, save_exported
from avsl.models.hashing import hash_model
from avsl.models.weights.published import load_published
from avsl.paths import Layout
from avsl.records import ImportedRecord
from avsl.registry.packaging import model_code
from avsl.registry.versions import register_imported
from avsl.stages.evaluate import evaluate_on, headline, log_evaluation, say_caveats, write_evaluation
from avsl.stages.prepare import load_data
from avsl.tracking.runs import RunTags, git_commit, start_or_resume_run
from avsl.tracking.store import open_store

log = logging.getLogger(__name__)


def import_checkpoint(
    method: str, files: Sequence[Path], overrides: Sequence[str] = (), *, momentum: bool = False
) -> None:
    """Import a published model, outside the DAG.

    The threshold and the scores are computed as for a model trained here. ``<root>/<data>/imported/<method>`` gets the
    exported ``model``, ``metrics.json``, ``per_sample.csv`` and ``gallery.png``. MLflow gets a run and a version of
    ``avsl-<data>-imported`` with the alias ``<method>``, or ``slavc-momentum`` for SLAVC's momentum encoders.

    Args:
        method: a key of :data:`avsl.models.weights.published.PUBLISHED`.
        files: files of the checkpoint.
        overrides: overrides of the configuration, which chooses the data set and the split.
        momentum: whether to take SLAVC's momentum encoders.

    Raises:
        ConfigError: the checkpoint cannot be used.
        DataError: the data set or the split is missing.
        TrackingError: the MLflow store fails.
    """
    config = compose(overrides)
    layout = Layout.of(config)
    data, split = load_data(layout)
    model = LocalizerEnsemble([load_published(method, files, momentum=momentum)]).eval()
    result = evaluate_on(config, data, split, list(model.members))
    name = f"{method}-momentum" if momentum else method
    scores = ImportedRecord.read({"method": name} | result.figures, "")
    # As `sha256sum` prints them.
    digests = "\n".join(f"{file_hash(path)}  {path.name}" for path in files)
    folder = layout.imported(name)
    shutil.rmtree(folder, ignore_errors=True)
    write_evaluation(config, data, result, scores, folder)
    store = replace(open_store(config.tracking, config.root), system_metrics=False)
    run_tags = RunTags(
        framework="imported",
        objective=name,
        label_ratio=0.0,
        seed=0,
        data_hash=split.data_hash,
        split_hash=split.content_hash,
        git_commit=git_commit(project_root()),
        dvc_stage="none",
    )
    params = {
        "method": name,
        "files": [path.name for path in files],
        "evaluate": config.evaluate.model_dump(mode="json"),
        "model": model.configs[0].model_dump(mode="json"),
    }
    with start_or_resume_run(store, config.data.name, f"{name} imported", run_tags, params) as run:
        tags = {"source": "imported", "method": name, "sha256": digests}
        run.set_tags(tags)
        # Before the model lies there too: the version carries it.
        log_evaluation(run, scores, folder, epoch=0)
        presence = choose_presence(result.maps["validation"])
        save_exported(folder / "model", model, describe_model(model, data, scores.threshold, presence))
        tags |= {
            "data": config.data.name,
            "run_id": run.run_id,
            "model_hash": hash_model(folder / "model"),
            "split_hash": split.content_hash,
            "metric": scores.metric,
            "validation_score": repr(scores.validation.scores["ciou"]),
        }
        registered, version = register_imported(store, config.data.name, name, folder / "model", tags, model_code())
    say_caveats(f"{registered}, version {version}", scores)
    log.info("%s, version %s (%s): %s", registered, version, name, headline(scores.test))
