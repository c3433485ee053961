"""The steps before any training: the prepared data set, and which of its rows have labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.data.datasets import make_prepared
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split, make_split
from avsl.errors import DataError
from avsl.paths import Layout
from avsl.schema import StrictConfig
from avsl.stages.seeds import forget_other_seeds, of_every_seed
from avsl.storage import is_remote, local_root

log = logging.getLogger(__name__)


def say_where(config: Config, folder: Path) -> None:
    """Log that results of settings other than params.yaml's are in ``folder``, separate from the DAG's."""
    log.warning(
        "%s: not as in params.yaml, so results go to %s; root=%s puts them in the place of params.yaml's",
        ", ".join(config.variant.keys),
        folder,
        config.root,
    )


def prepare(overrides: Sequence[str] = ()) -> None:
    """Make the prepared data set; a root on S3 is mirrored in ``<root>/cache`` first.

    A second process that prepares the same folder waits for the first.
    """
    config = compose(overrides)
    folder = Layout.of(config).prepared
    if config.variant.data:
        say_where(config, folder.parent)
    settings = fetched(config.data.settings, config.root / "cache")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        manifest = make_prepared(config.data.name, settings, folder, os.cpu_count() or 1)
    wanted = manifest.expected
    counts = ", ".join(
        f"{part} {manifest.counts.get(part, 0)}" + (f" of {wanted[part]}" if wanted else "")
        for part in wanted or manifest.counts
    )
    log.info("%s: %s", config.data.name, counts)


def fetched(settings: StrictConfig, cache: Path) -> StrictConfig:
    """Return the settings of a data set with a local root; a root on S3 is mirrored in ``cache``."""
    root = getattr(settings, "root", "")  # a generated set has none
    if not is_remote(root):
        return settings
    return settings.model_copy(update={"root": str(local_root(root, cache))})


def split(overrides: Sequence[str] = ()) -> None:
    """Choose the labeled rows of one label ratio.

    Raises:
        DataError: nothing is left to train on, to choose a threshold on or to test with, too little is annotated, or
            no validation row has a source in view.
    """
    config = compose(overrides)
    layout = Layout.of(config)
    if config.variant.split:
        say_where(config, layout.splits.parent)
    data = PreparedData.open(layout.prepared)
    _check_parts(data, config.data.name)
    made = make_split(data, config.split)
    layout.split.parent.mkdir(parents=True, exist_ok=True)
    made.save(layout.split)
    log.info(
        "%s: %d labeled, %d unlabeled, %d for validation (labels too)",
        "all labels there are" if config.split.label_ratio == 1 else f"label ratio {layout.ratio}",
        len(made.labeled),
        len(made.unlabeled),
        len(made.validation),
    )


def split_seeds(overrides: Sequence[str] = ()) -> None:
    """Choose the labeled rows of one label ratio for every seed of the matrix."""
    seeds = of_every_seed(overrides)
    for asked in seeds.values():
        split(asked)
    forget_other_seeds(Layout.of(compose(overrides)).splits, list(seeds))


def _check_parts(data: PreparedData, name: str) -> None:
    """Refuse a set without training, validation or test rows; a set without any boxes needs training rows only."""
    if not data.annotated.any() and len(data.indices("train")):
        log.warning(
            "%s: no row has boxes: framework=self_supervised alone can be trained, and nothing can be scored", data.root
        )
        return
    for part, purpose in (("train", "training"), ("validation", "validation"), ("test", "testing")):
        if not len(data.indices(part)):
            raise DataError(
                f"{data.root}: none of its rows is for {purpose}: annotate more clips or recordings, or set the shares "
                f"and the seed in data.{name} so that their draw leaves some"
            )
    boxes = (data.boxes(row) for row in data.indices("validation").tolist())
    if not any(found is not None and len(found) for found in boxes):
        raise DataError(
            f"{data.root}: none of its validation rows has a source in view, so no threshold can be chosen on them: "
            "put clips with boxes into validation"
        )


def load_data(layout: Layout) -> tuple[PreparedData, Split]:
    """Load the prepared set and the split.

    Raises:
        DataError: one is missing or damaged, or the split was drawn from another version of the set.
    """
    data, made = PreparedData.open(layout.prepared), Split.load(layout.split)
    if made.data_hash != data.manifest.content_hash:
        raise DataError(f"{layout.split} was drawn from another version of {layout.prepared}: run the split again")
    return data, made
