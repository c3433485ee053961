"""Choice of the labeled rows at a ratio: nested over ratios, stratified by class, grouped by recording."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from avsl.data.prepared.format import PARTS
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.files import write_json
from avsl.schema import StrictConfig

RatioOf = Literal["all", "annotated"]


class SplitConfig(StrictConfig):
    """The choice of labeled training rows.

    Attributes:
        label_ratio: share of labeled training rows; 1 uses all labels.
        ratio_of: whether the ratio is a share of ``all`` training rows, as in the papers, or of the ``annotated`` ones.
        seed: seed of the choice; None for the run's seed.
    """

    label_ratio: float = Field(gt=0, le=1)
    ratio_of: RatioOf = "all"
    seed: int | None = Field(None, ge=0)


class Split(StrictConfig):
    """Sample ids by role, each in the order of the data set.

    ``tests`` maps each test part to its ids; ``data_hash`` is the prepared set's content hash;
    ``content_hash`` covers it and every id.
    """

    label_ratio: float
    ratio_of: RatioOf = "all"
    seed: int
    data_hash: str
    labeled: list[str]
    unlabeled: list[str]
    validation: list[str]
    tests: dict[str, list[str]]
    content_hash: str

    @property
    def validation_hash(self) -> str:
        """SHA-256 of the data set and its validation clips: validation scores can be compared where it is equal."""
        return hashlib.sha256(json.dumps([self.data_hash, self.validation]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read a split.

        Raises:
            DataError: the file is missing or not a split, or its hash does not match its ids.
        """
        if not path.is_file():
            raise DataError(f"split {path} is missing: `avsl split` makes it")
        try:
            split = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise DataError(f"{path}: not a valid split: {where}: {first['msg'].lower()}") from None
        if split.content_hash != _hash(split.data_hash, split.labeled, split.unlabeled, split.validation, split.tests):
            raise DataError(f"{path}: content_hash does not match the sample ids, so the file was changed")
        return split


def _hash(
    data_hash: str, labeled: list[str], unlabeled: list[str], validation: list[str], tests: dict[str, list[str]]
) -> str:
    stated = json.dumps([data_hash, labeled, unlabeled, validation, tests], sort_keys=True)
    return hashlib.sha256(stated.encode()).hexdigest()


def _labeling_order(data: PreparedData, rows: np.ndarray[tuple[int], np.dtype[np.int64]], seed: int) -> list[list[int]]:
    """Groups of rows (one per recording) in the order in which they get labels.

    The order within each class is random; classes are interleaved so that every prefix has their proportions: the j-th
    of a class's n recordings has the position (j + u) / n, with a random u per class.
    """
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(data.source_ids[row], []).append(row)
    by_class: dict[str, list[str]] = {}
    for source, group in members.items():
        by_class.setdefault(data.labels[group[0]], []).append(source)
    due: list[tuple[float, str]] = []
    for label in sorted(by_class):
        sources = sorted(by_class[label])
        offset = rng.random()
        due += [((j + offset) / len(sources), sources[k]) for j, k in enumerate(rng.permutation(len(sources)))]
    return [members[source] for _, source in sorted(due)]


def make_split(data: PreparedData, config: SplitConfig) -> Split:
    """Choose the labeled rows of ``data`` among its annotated training rows.

    The order is one seeded permutation that does not depend on the ratio, and a ratio takes its prefix, so the
    3 % lie inside the 10 %. Recordings are labeled as a whole, at least one if any is annotated;
    their unannotated rows are left out. A ratio of 1 uses all labels.

    Raises:
        DataError: fewer training rows are annotated than the ratio asks for, or a source lies in two parts.
    """
    side: dict[str, str] = {}
    for source, part in zip(data.source_ids, data.parts, strict=True):
        here = part.partition("_")[0]  # the test parts may share recordings
        if side.setdefault(source, here) != here:
            raise DataError(f"{data.root}: source '{source}' lies in both '{side[source]}' and '{here}'")
    seed = 0 if config.seed is None else config.seed
    train = data.indices("train")
    annotated = train[data.annotated[train]]
    of = train if config.ratio_of == "all" else annotated
    wanted = len(annotated)
    if wanted and config.label_ratio < 1:
        wanted = max(1, round(config.label_ratio * len(of)))
    if wanted > len(annotated):
        raise DataError(
            f"{data.root}: label_ratio = {config.label_ratio:g} asks for {wanted} labeled rows of {len(train)} for "
            f"training, but {len(annotated)} are annotated: {len(annotated) / len(train):.3g} is the highest ratio, 1 "
            "takes all labels there are, and split.ratio_of=annotated makes it a share of those"
        )
    chosen: list[int] = []
    for group in _labeling_order(data, annotated, seed):
        if len(chosen) >= wanted:
            break
        chosen += group
    labeled_sources = set(data.source_ids[chosen])
    ids = data.sample_ids

    def names(rows: list[int]) -> list[str]:
        return [ids[row] for row in rows]

    labeled = names(sorted(chosen))
    unlabeled = names([row for row in train.tolist() if data.source_ids[row] not in labeled_sources])
    validation = names(data.indices("validation").tolist())
    tests = {
        part: names(rows.tolist()) for part in PARTS if part.startswith("test") and len(rows := data.indices(part))
    }
    return Split(
        label_ratio=config.label_ratio,
        ratio_of=config.ratio_of,
        seed=seed,
        data_hash=data.manifest.content_hash,
        labeled=labeled,
        unlabeled=unlabeled,
        validation=validation,
        tests=tests,
        content_hash=_hash(data.manifest.content_hash, labeled, unlabeled, validation, tests),
    )
