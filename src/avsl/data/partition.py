"""Assigns entries to the training, validation and test parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from avsl.data.index import VIDEO_SUFFIXES, CutConfig, Entry, Index, IndexedConfig, LazyEntries, Leak, LeakRule
from avsl.errors import DataError


def assign_parts(
    entries: Iterable[Entry], config: CutConfig, test_sources: Container[str] | None = None
) -> list[Entry]:
    """Assign each annotated row to a part; all rows of a recording get the same part.

    The part of a recording depends only on the seed and its name, so that new annotations do not move others.

    Args:
        entries: annotated rows.
        config: shares and seed.
        test_sources: the published test recordings; None chooses ``config.test_share`` of the recordings.
    """

    def part(source: str) -> str:
        if test_sources is None:
            if hash_fraction(f"{config.seed}:test:{source}") < config.test_share:
                return "test"
        elif source in test_sources:
            return "test"
        return (
            "validation" if hash_fraction(f"{config.seed}:validation:{source}") < config.validation_share else "train"
        )

    return [replace(entry, part=part(entry.source_id)) for entry in entries]


def hash_fraction(text: str) -> float:
    """A uniform number in [0, 1) that depends only on ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def add_pool(entries: Sequence[Entry], pool: Iterable[Entry], left_out: int = 0) -> Index:
    """Add the other media of the folder as unlabeled training rows, except those of held-out recordings.

    Args:
        entries: the rows so far, with their parts.
        pool: unannotated rows of ``train``, which can be iterated several times.
        left_out: number of rows that were left out before.
    """
    free, leaks = _separate_held_out(entries, pool)
    return Index(LazyEntries(lambda: chain(entries, free)), left_out=left_out + len(leaks))


def add_training_list(
    entries: Sequence[Entry], pool: Iterable[Entry], rule: LeakRule, path: Path, key: str, left_out: int = 0
) -> Index:
    """Add a published training list as unlabeled training rows.

    Args:
        entries: the rows so far, with their parts; a listed row that is among the training rows is not added again.
        pool: the listed rows as rows of ``train``, which can be iterated several times.
        rule: ``stop`` refuses a list with held-out rows or recordings, ``drop`` drops and records them.
        path: the list.
        key: name of the rule's setting, for the error.
        left_out: number of rows that were left out before.

    Raises:
        DataError: the rule is ``stop``, and the list has rows or recordings of held-out parts; states how many.
    """
    free, leaks = _separate_held_out(entries, pool)
    if leaks and rule == "stop":
        counts = Counter((leak.part, leak.same) for leak in leaks)
        said = ", ".join(
            f"{n} {'are rows' if same else 'share a source with rows'} of '{part}'"
            for (part, same), n in sorted(counts.items(), key=lambda item: (item[0][0], not item[0][1]))
        )
        raise DataError(
            f"{path}: {len(leaks)} of its {sum(1 for _ in pool)} rows are held out: {said}; {key}=drop leaves them out"
        )
    return Index(LazyEntries(lambda: chain(entries, free)), leaks, left_out)


def _separate_held_out(entries: Iterable[Entry], pool: Iterable[Entry]) -> tuple[Iterable[Entry], list[Leak]]:
    """Split ``pool`` into training rows that are not in ``entries``, and held-out rows."""
    rows = {entry.sample_id: entry.part for entry in entries}
    sources: dict[str, str] = {}
    for entry in entries:
        if entry.part != "train":
            sources |= dict.fromkeys(entry.sources - sources.keys(), entry.part)
    leaks: list[Leak] = []
    for entry in pool:
        if entry.source_id in sources:
            part = rows.get(entry.sample_id)
            leaks.append(Leak(entry.sample_id, part or sources[entry.source_id], part is not None))
    free = LazyEntries(lambda: (row for row in pool if row.source_id not in sources and row.sample_id not in rows))
    return free, leaks


def with_frames(entries: Iterable[Entry], config: IndexedConfig) -> Iterator[Entry]:
    """Make ``config.frames_per_clip`` rows of each unannotated training video.

    Args:
        entries: rows with their parts, without leaks and duplicates.
        config: settings of the data set.

    Yields:
        The rows; ``CLIP@2of5`` is the second of five rows of a clip.

    Raises:
        DataError: ``frames_per_clip`` is above 1, and a row has a picture instead of a video or no row has such a
            video.
    """
    n = config.frames_per_clip
    found = n == 1
    for entry in entries:
        if n == 1 or entry.part != "train" or entry.annotated or entry.broken:
            yield entry
            continue
        found = True
        if entry.picture is not None and entry.picture.suffix.lower() not in VIDEO_SUFFIXES:
            raise DataError(f"{entry.picture}: a picture has one frame, not frames_per_clip = {n}")
        for k in range(1, n + 1):
            name = f"{entry.sample_id}@{k}of{n}"
            yield replace(entry, sample_id=name, group_id=name, moment=(k - 0.5) / n)
    if not found:
        raise DataError(f"{config.root}: frames_per_clip = {n}, but no row for training is a video without boxes")
