"""The training step."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

import yaml

from avsl.config import compose, project_root
from avsl.engine.build import describe_model, rows_of
from avsl.engine.fit import find_checkpoint, fit, identity, write_history
from avsl.engine.layout import Layout
from avsl.engine.prepare import load_data
from avsl.engine.scoring import METRIC, choose_threshold, compute_maps, score
from avsl.files import write_json, write_text
from avsl.models import save_exported
from avsl.tracking.registry import hash_model
from avsl.tracking.runs import RunTags, git_commit, open_store, start_or_resume_run

log = logging.getLogger(__name__)


def train(overrides: Sequence[str] = ()) -> None:
    """Train one framework at one label ratio, going on from its own checkpoint where there is one."""
    config = compose(overrides)
    layout = Layout.of(config)
    data, drawn = load_data(layout)
    store = open_store(config.tracking, config.root)
    checkpoint = layout.state / "last.ckpt"
    run_id = find_checkpoint(checkpoint, identity(config, drawn))
    tags = RunTags(
        framework=config.framework.name,
        objective=config.objective.name,
        label_ratio=config.split.label_ratio,
        seed=config.seed,
        data_hash=drawn.data_hash,
        split_hash=drawn.content_hash,
        git_commit=git_commit(project_root()),
        dvc_stage=f"train@{layout.framework}-{layout.ratio}",
    )
    name = f"{config.framework.name} {layout.ratio} seed {config.seed}"
    params = config.model_dump(mode="json")
    with start_or_resume_run(store, config.data.name, name, tags, params, run_id) as run:
        module, epochs, reader = fit(config, data, drawn, run, checkpoint, resume=run_id is not None)
        members = [member.float().eval() for member in module.framework.eval_models()]
        rows = rows_of(data, drawn.validation)
        maps = compute_maps(members, reader, rows, config.evaluate.batch_size)
        threshold = choose_threshold(maps.confidence, maps.truth)
        validation = score(maps.confidence, maps.truth, "fixed", threshold)
        description = describe_model(module.ensemble(), data, threshold)
        shutil.rmtree(layout.train, ignore_errors=True)
        save_exported(layout.train / "model", module.ensemble(), description)
        write_text(layout.train / "config.yaml", yaml.safe_dump(params, sort_keys=False))
        write_history(layout.train / "curves.csv", epochs.history)
        run.log_epoch({"validation/ciou": validation["ciou"], "validation/auc": validation["auc"]}, len(epochs.history))
        run.log_folder(layout.train)
        write_json(
            layout.train / "run.json",
            {
                "run_id": run.run_id,
                "framework": config.framework.name,
                "label_ratio": config.split.label_ratio,
                "seed": config.seed,
                "metric": METRIC,
                "split_hash": drawn.content_hash,
                "identity": identity(config, drawn),
                "model_hash": hash_model(layout.train / "model"),
                "validation": validation,
                "train_seconds": round(epochs.seconds, 1),
                "labelled": len(drawn.labelled),
            },
        )
    shutil.rmtree(layout.state, ignore_errors=True)
