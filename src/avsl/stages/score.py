"""Scores a trained model on another data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from avsl.build import make_reader
from avsl.config.compose import compose
from avsl.data.prepared.format import PARTS
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.evaluation.evaluate import score_model
from avsl.models import ExportedModel, ObjectPrior, load_exported
from avsl.models.hashing import hash_model
from avsl.paths import Layout
from avsl.records import TransferRecord
from avsl.registry.load import exported_model
from avsl.schema import ConfigError
from avsl.stages.evaluate import headline, save_maps, say_caveats, write_evaluation

log = logging.getLogger(__name__)


def score(model: str, overrides: Sequence[str] = (), *, choose_threshold: bool = False, maps: bool = False) -> None:
    """Score a model on the test parts of the prepared data set that ``overrides`` choose.

    ``<root>/<data>/scored/<hash of the model>`` gets ``metrics.json``, ``per_sample.csv`` and ``gallery.png``. Nothing
    is logged to MLflow or registered.

    Args:
        model: an exported model's folder, or ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        overrides: of the configuration, which choose the data set.
        choose_threshold: whether to choose the threshold on the set's validation part. Otherwise the model's threshold
            is used, and the validation part is not read.
        maps: whether to save the confidence maps as ``maps.npz``, see `avsl.stages.evaluate.save_maps`.

    Raises:
        ConfigError: the folder holds no exported model, or an object prior is asked for without a choice of threshold.
        DataError: the set is not prepared, lacks a part, or has another frame size, sample rate or duration than the
            model.
        TrackingError: the registry has no such model.
    """
    config = compose(overrides)
    if config.evaluate.ogl is not None and not choose_threshold:
        raise ConfigError(
            "key 'evaluate.ogl' needs --choose-threshold: the mixture has another threshold than the model"
        )
    layout = Layout.of(config)
    data = PreparedData.open(layout.prepared)
    wanted = [part for part in PARTS if part.startswith("test") or (choose_threshold and part == "validation")]
    parts = {part: rows for part in wanted if len(rows := data.indices(part))}
    for part in ("test", *(["validation"] if choose_threshold else [])):
        if part not in parts:
            raise DataError(f"{data.root} has no row of part '{part}'")
    with exported_model(model, config) as (folder, source):
        ensemble, description = load_exported(folder)
        model_hash = hash_model(folder)
    _check_fits(description, data, source)
    reader = make_reader(config, ensemble.members, data, np.concatenate(list(parts.values())))
    prior = None if config.evaluate.ogl is None else ObjectPrior(config.evaluate.ogl)
    threshold = None if choose_threshold else description.threshold
    result = score_model(list(ensemble.members), reader, parts, config.evaluate.batch_size, prior, threshold=threshold)
    about = {"model": source, "model_hash": model_hash, "trained_on": description.trained_on}
    scores = TransferRecord.read(about | result.figures, "")
    target = layout.scored(model_hash)
    write_evaluation(config, data, result, scores, target)
    if maps:
        save_maps(data, result.maps, target / "maps.npz")
    name = f"{source} on {config.data.name}"
    say_caveats(name, scores)
    log.info("%s: %s (%s), in %s", name, headline(scores.test), scores.test.coverage, target)


def _check_fits(model: ExportedModel, data: PreparedData, source: str) -> None:
    there = data.manifest
    wanted = {
        "image_size": (model.image_size, there.image_size),
        "sample_rate": (model.sample_rate, there.sample_rate),
        "duration_s": (model.duration_s, there.n_samples_audio / there.sample_rate),
    }
    if differing := [f"{key} {has:g} where the model has {own:g}" for key, (own, has) in wanted.items() if own != has]:
        raise DataError(
            f"{data.root} was prepared with {', '.join(differing)} ({source}): prepare it with the model's, as "
            f"data.NAME.image_size={model.image_size}"
        )
