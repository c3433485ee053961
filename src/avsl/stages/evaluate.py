"""The evaluation step: scores, pictures and curves of a trained model; the only step that opens test."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avsl.build import make_reader
from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.errors import DataError
from avsl.evaluation.evaluate import Evaluation, score_model
from avsl.evaluation.maps import Maps
from avsl.files import whole_file, write_json, write_text
from avsl.models import ObjectPrior, load_exported
from avsl.models.front_ends import LogMel, LogMelConfig
from avsl.paths import Layout
from avsl.records import EvaluationRecord, Figures, PartScores, RunRecord
from avsl.stages.prepare import load_data
from avsl.stages.seeds import forget_other_seeds, of_every_seed
from avsl.tracking.cells import link_seeds
from avsl.tracking.runs import TrackedRun, id_in_store
from avsl.tracking.store import open_store
from avsl.viz.curves import plot_curves, save_figure
from avsl.viz.overlay import GalleryRow, gallery, save_png

log = logging.getLogger(__name__)

# Scores with a standard deviation over seeds in the summary of a cell.
_SPREAD = ("validation_ciou", "test_ciou", "test_auc")


def evaluate(overrides: Sequence[str] = ()) -> None:
    """Score the trained model on validation and on every test part, and draw it.

    Raises:
        DataError: there is nothing to score or no trained model, or it was trained on another split.
    """
    config = compose(overrides)
    layout = Layout.of(config)
    data, split = load_data(layout)
    if not split.validation:
        raise DataError(f"{layout.prepared}: no row has boxes, so there is nothing to score")
    trained = RunRecord.load(layout.train)
    if trained.split_hash != split.content_hash:
        raise DataError(f"{layout.train} was trained on another split than {layout.split}: run `avsl train` again")
    model, _ = load_exported(layout.train / "model")
    result = evaluate_on(config, data, split, list(model.members))
    scores = EvaluationRecord.of(trained, result.figures)
    layout.evaluation.mkdir(parents=True, exist_ok=True)
    save_figure(plot_curves(_read_curves({"": layout.train / "curves.csv"})), layout.evaluation / "curves.png")
    write_evaluation(config, data, result, scores, layout.evaluation)
    store = replace(open_store(config.tracking, config.root), system_metrics=False)
    # A resumed run would keep the figures of an earlier evaluation; these replace them.
    run = TrackedRun(store, id_in_store(store, config.data.name, trained.run_id, layout.train), resumed=False)
    log_evaluation(run, scores, layout.evaluation, config.trainer.epochs)
    say_caveats(f"{layout.method} at {layout.ratio}", scores)
    found = headline(scores.test)
    log.info("%s at %s: %s (%s), in %s", layout.method, layout.ratio, found, scores.test.coverage, layout.evaluation)


def evaluate_seeds(overrides: Sequence[str] = ()) -> None:
    """Score one cell (framework, objective, label ratio) with all seeds of the matrix; plot and summarize them.

    The runs of its seeds get a parent in MLflow (`avsl.tracking.cells.link_seeds`).

    Raises:
        DataError: a seed has no trained model, or one of another split.
    """
    config, seeds = compose(overrides), of_every_seed(overrides)
    layout = Layout.of(config)
    for asked in seeds.values():
        evaluate(asked)
    forget_other_seeds(layout.evaluated_cell, list(seeds))
    folders = [layout.evaluated_cell / str(seed) for seed in seeds]
    found = [EvaluationRecord.load(folder).summary() for folder in folders]
    summary: dict[str, float] = {"seeds": len(found)}
    for name in found[0]:
        values = [scores[name] for scores in found]
        summary[name] = round(fmean(values), 4)
        if name in _SPREAD and len(values) > 1:
            summary[f"{name}_sd"] = round(stdev(values), 4)
    write_json(layout.evaluated_cell.with_name(f"{layout.method}.json"), summary)
    trained = {f"seed {seed}": layout.cell / str(seed) / "curves.csv" for seed in seeds}
    save_figure(plot_curves(_read_curves(trained)), layout.evaluated_cell.with_name(f"{layout.method}.curves.png"))
    shutil.copyfile(folders[0] / "gallery.png", layout.evaluated_cell.with_name(f"{layout.method}.gallery.png"))
    store = open_store(config.tracking, config.root)
    trainings = [layout.cell / str(seed) for seed in seeds]
    run_ids = [id_in_store(store, config.data.name, RunRecord.load(path).run_id, path) for path in trainings]
    link_seeds(replace(store, system_metrics=False), f"{layout.method} {layout.ratio}", run_ids)


def say_caveats(name: str, scores: Figures) -> None:
    """Log the caveats of a model's test score."""
    for caveat in scores.caveats:
        log.warning("%s: %s", name, caveat)


def headline(test: PartScores) -> str:
    """Return the main figure of ``test``: CIoU@0.5, or the false-positive rate if no source is in view."""
    if test.n:
        return f"test CIoU@0.5 {100 * test.scores['ciou']:.1f} %"
    rate = 100 * test.scores["false_positive_rate"]
    return f"test has no row with a source in view, false-positive rate {rate:.1f} %"


def evaluate_on(config: Config, data: PreparedData, split: Split, members: Sequence[torch.nn.Module]) -> Evaluation:
    """Score a model, given as the localizers whose confidences it averages, on all parts of a split but training."""
    parts = {"validation": split.validation, **split.tests}
    rows = {part: data.rows_of(ids) for part, ids in parts.items()}
    reader = make_reader(config, members, data, np.concatenate(list(rows.values())))
    prior = None if config.evaluate.ogl is None else ObjectPrior(config.evaluate.ogl)
    return score_model(members, reader, rows, config.evaluate.batch_size, prior)


def write_evaluation(config: Config, data: PreparedData, result: Evaluation, scores: Figures, folder: Path) -> None:
    """Leave ``per_sample.csv``, ``gallery.png``, ``metrics.json`` of ``scores``, ``validation.npz`` of validation."""
    write_text(folder / "per_sample.csv", result.table)
    if result.validation_ciou is not None:
        maps, ciou = {"validation": result.maps["validation"]}, result.validation_ciou.float().numpy()
        save_maps(data, maps, folder / "validation.npz", ciou)
    _draw_gallery(config, data, result, scores.threshold, folder / "gallery.png")
    scores.save(folder)


def log_evaluation(run: TrackedRun, scores: Figures, folder: Path, epoch: int) -> None:
    """Record the test scores of an evaluation, its files in ``folder``, and whether it used an object prior.

    Scores with the prior have the prefix ``ogl/``. Scores by class and baselines stay in the folder, because a class's
    name may hold characters that MLflow refuses in a metric's name. The tag ``n_of_N`` states how many of the listed
    rows of each test part were found.
    """
    run.log_epoch(dict(scores.by_name()), epoch)
    found = ", ".join(f"{part} {test.coverage}" for part, test in scores.tests.items())
    run.set_tags({"ogl": str(scores.ogl is not None).lower(), "n_of_N": found})
    run.log_folder(folder, "evaluation")


def _read_curves(histories: Mapping[str, Path]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Read the curves of trainings, grouped by panel."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for training, history in histories.items():
        with history.open(newline="") as file:
            for line in csv.DictReader(file):
                for key, value in line.items():
                    panel, _, curve = key.partition("/")
                    if curve and value and curve != "learning_rate":
                        points = panels.setdefault(panel, {}).setdefault(f"{curve} {training}".strip(), [])
                        points.append((float(line["epoch"]), float(value)))
    return panels


def save_maps(
    data: PreparedData, maps: Mapping[str, Maps], target: Path, ciou: NDArray[np.float32] | None = None
) -> None:
    """Save maps, so that a comparison opens no model.

    ``sample_id``, ``part`` and ``recording``, (N,); ``confidence``, (N, h, w) in half precision; ``ciou``, (N,), if it
    is given.
    """
    rows = np.concatenate([of_part.rows for of_part in maps.values()])
    scores: dict[str, Any] = {} if ciou is None else {"ciou": ciou}
    with whole_file(target) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            sample_id=np.asarray([str(data.sample_ids[row]) for row in rows]),
            part=np.repeat(list(maps), [len(of_part.rows) for of_part in maps.values()]),
            recording=np.asarray([str(data.source_ids[row]) for row in rows]),
            confidence=torch.cat([of_part.confidence for of_part in maps.values()]).half().numpy(),
            **scores,
        )


def _draw_gallery(config: Config, data: PreparedData, result: Evaluation, threshold: float, target: Path) -> None:
    """Draw random samples of validation, or of test if validation was not scored."""
    maps = result.maps.get("validation", result.maps["test"])
    confidence = maps.confidence.numpy()
    front_end = LogMel(LogMelConfig(sample_rate=data.manifest.sample_rate))
    rows = []
    for k in np.random.default_rng(0).permutation(len(maps.rows))[: config.evaluate.gallery]:
        row = maps.rows[k : k + 1]
        number = int(row[0])
        waveform = data.waveforms(row)
        boxes = data.boxes(number)
        rows.append(
            GalleryRow(
                frame=data.frames(row)[0],
                truth=np.zeros((0, 4), np.float32) if boxes is None else boxes,
                maps={f"confidence (threshold {threshold:.2f})": confidence[k]},
                log_mel=front_end(torch.from_numpy(waveform))[0, 0].numpy(),
                waveform=waveform[0],
                caption=f"{data.sample_ids[number]} · {data.labels[number]}",
            )
        )
    save_png(gallery(rows), target)
