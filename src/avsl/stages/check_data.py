"""Checks a data set on disk before it is prepared."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from avsl.config.compose import as_override, compose
from avsl.config.params import read_params
from avsl.config.plugins import load_plugins
from avsl.console import print_table
from avsl.data.datasets import on_disk
from avsl.data.datasets.folder import ANNOTATIONS, FolderConfig
from avsl.data.index import IndexedConfig
from avsl.data.prepared.preparation import PartState, check_index
from avsl.files import project_root
from avsl.schema import lookup
from avsl.stages.prepare import fetched
from avsl.storage import is_remote


def check(name: str, root: str, overrides: Sequence[str] = ()) -> bool:
    """Print for each part of a data set which of its listed clips are present, missing or broken.

    Args:
        name: of the data set.
        root: its folder, or the S3 address of one, which is mirrored as `prepare` does it.
        overrides: further changes to its settings, as ``data.vggss.train_list=vggss_10k.txt``.

    Returns:
        Whether all of it can be used, something can be trained, and no training list would stop the preparation.

    Raises:
        ConfigError: the data set is unknown or generated, or a setting is wrong.
        DataError: the folder, its annotations or its lists cannot be used at all.
        StorageError: the S3 address cannot be mirrored.
    """
    project = project_root()
    load_plugins(read_params(project), project)
    read, model = lookup(name, on_disk(), "data set on disk")
    composed = compose(
        [
            f"data={name}",
            as_override(f"data.{name}.root", root if is_remote(root) else str(Path(root).absolute())),
            *overrides,
        ]
    )
    settings = cast("IndexedConfig", fetched(composed.data.settings, composed.root / "cache"))  # a `model`
    unlabeled = _waits_for_labels(settings)
    if unlabeled:
        settings = settings.model_copy(update={"annotations": ""})
    # Report a leak among the other findings instead of failing at it.
    lenient = {"leak": "drop"} if "leak" in model.model_fields else {}
    index = read(settings.model_copy(update=lenient))
    states = check_index(name, index, settings, os.cpu_count() or 1)

    rows = []
    for state in states:
        rows.append(
            {
                "part": state.part,
                "listed": f"{state.listed:,}",
                "usable": f"{state.usable:,} of {state.listed:,}",
                "with boxes": f"{state.annotated:,}",
                "missing": f"{state.missing:,}",
                "broken": f"{state.broken:,}",
                "the first of them": state.example,
            }
        )
    print_table(rows, f"{name}: {root}")
    leaks = Counter(leak.part for leak in index.leaks)
    for part, n in sorted(leaks.items()):
        print(f"leak: {n:,} rows of the training list are, or share a source with, rows of '{part}'")
    if index.left_out:
        print(f"{index.left_out:,} rows belong to no side and are left out")
    for note in index.notes:
        print(note)
    trainable, said = _training(states)
    print(said)
    if unlabeled:
        print(f"{root}: {ANNOTATIONS} is not there yet: `avsl labels import` writes it")
    if name == "folder" and not any(state.annotated for state in states):
        print("next:", shlex.join(["avsl", "labels", "suggest", *_naming(root, overrides), "--budget", "60"]))
    stopped = bool(leaks) and getattr(settings, "leak", "drop") == "stop"
    return trainable and not stopped and not any(state.missing or state.broken for state in states)


def _waits_for_labels(settings: IndexedConfig) -> bool:
    """Return whether the annotation file is the one that is written when the first boxes are imported."""
    if not isinstance(settings, FolderConfig) or settings.annotations != ANNOTATIONS:
        return False
    return Path(settings.root).is_dir() and not Path(settings.root, ANNOTATIONS).exists()


def _naming(root: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides by which further commands use the folder; none where params.yaml names it."""
    settings = compose([]).data.settings
    known = isinstance(settings, FolderConfig) and Path(settings.root).absolute() == Path(root).absolute()
    return list(overrides) if known else ["data=folder", as_override("data.folder.root", root), *overrides]


def _training(states: Sequence[PartState]) -> tuple[bool, str]:
    """Return whether the set can be trained on, and a sentence on its labels."""
    usable = {state.part: state.usable for state in states}
    boxes = {state.part: state.annotated for state in states}
    if not usable.get("train"):
        return False, "nothing can be trained: no usable row is for training"
    if not any(boxes.values()):
        return True, "no row has boxes: framework=self_supervised alone can be trained, and nothing can be scored"
    for part in ("validation", "test"):
        if not boxes.get(part):
            return False, f"nothing can be trained and scored: no row with boxes is for {part}"
    n, labels = usable["train"], boxes["train"]
    if not labels:
        return True, "no training row has boxes: self-supervised training alone is possible"
    said = f"{labels:,} of {n:,} training rows have boxes: split.label_ratio is at most {labels / n:.3g}"
    return True, f"{said}, or 1 for all labels there are; split.ratio_of=annotated makes it a share of those"
