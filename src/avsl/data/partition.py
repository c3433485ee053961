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
    """Give each annotated row its part, by source: two rows of one recording never lie on two sides.

    A source's draw depends on the seed and its name alone, so further annotations move nobody.

    Args:
        entries: annotated rows.
        config: shares and seed.
        test_sources: the published test sources; None draws ``config.test_share`` of the sources.
    """

    def part(source: str) -> str:
        if test_sources is None:
            if draw(f"{config.seed}:test:{source}") < config.test_share:
                return "test"
        elif source in test_sources:
            return "test"
        return "validation" if draw(f"{config.seed}:validation:{source}") < config.validation_share else "train"

    return [replace(entry, part=part(entry.source_id)) for entry in entries]


def draw(text: str) -> float:
    """A uniform number in [0, 1) that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def add_pool(entries: Sequence[Entry], pool: Iterable[Entry], left_out: int = 0) -> Index:
    """Add what else lies in the folder as unlabeled training rows, without the sources that are held out.

    Args:
        entries: the rows so far, with their parts.
        pool: rows of ``train`` without annotation, to be gone through more than once.
        left_out: rows left out before.
    """
    free, leaks = _held_out(entries, pool)
    return Index(LazyEntries(lambda: chain(entries, free)), left_out=left_out + len(leaks))


def add_training_list(
    entries: Sequence[Entry], pool: Iterable[Entry], rule: LeakRule, path: Path, key: str, left_out: int = 0
) -> Index:
    """Add a published training list as unlabeled training rows.

    Args:
        entries: the rows so far, with their parts; a listed row that is among the training rows is not added again.
        pool: the listed rows, as rows of ``train``, to be gone through more than once.
        rule: ``stop`` refuses a list with held-out rows or sources, ``drop`` drops and records those.
        path: the list.
        key: name of the setting that holds the rule.
        left_out: rows left out before.

    Raises:
        DataError: the list shares rows or sources with held-out parts and the rule is ``stop``; says how many.
    """
    free, leaks = _held_out(entries, pool)
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


def _held_out(entries: Iterable[Entry], pool: Iterable[Entry]) -> tuple[Iterable[Entry], list[Leak]]:
    """Part ``pool`` into training rows that are not among ``entries`` yet, and rows that are held out."""
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
    """Make ``config.frames_per_clip`` rows of each training video that nobody annotated.

    Args:
        entries: rows with their parts; leaks and what is there twice are found before, by clip.
        config: says how many.

    Yields:
        The rows; ``CLIP@2of5`` is the second of five of one.

    Raises:
        DataError: more than one is asked for where a row has a picture and no video, or where there is no such video.
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
