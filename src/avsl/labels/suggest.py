"""`avsl labels suggest`: which clips to label next."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from avsl.config.compose import compose, compose_group, parse_overrides
from avsl.console import print_table
from avsl.data.index import VIDEO_SUFFIXES, Entry
from avsl.data.media.container import media_duration
from avsl.errors import DataError
from avsl.files import project_root
from avsl.labels.clips import ClipFolder, one_a_recording
from avsl.labels.perception import Perceiver
from avsl.labels.rounds import TEST, Rounds, Suggestion
from avsl.labels.strategies import STRATEGIES
from avsl.labels.strategies.pool import Choice, Pool, StrategyConfig
from avsl.schema import ConfigError, StrictConfig, lookup

log = logging.getLogger(__name__)

_SAMPLE_RATE = 16000
_PARTS = ("test", "validation", "train")


class SuggestConfig(StrictConfig):
    """Settings of all strategies; those of one strategy are in the section of its name.

    Attributes:
        test_clips: number of clips of the test part, which is drawn once; annotated clips count.
        most_looked_at: number of recordings that are passed through a model, drawn at random if there are more.
    """

    test_clips: int = Field(100, ge=1)
    most_looked_at: int = Field(5000, ge=1)


def suggest(
    overrides: Sequence[str],
    budget: int,
    strategy: str = "random",
    model: str | None = None,
    labels: Path | None = None,
) -> Path:
    """Choose the clips to annotate next and write them as a round.

    Recordings belong to the parts that ``data=folder`` gives them. The test part is drawn at random before the first
    round. The share ``data.folder.validation_share`` of each round is for validation and also drawn at random; the
    strategy chooses the rest among the training recordings. No clip is suggested twice, and a round has at most one
    clip of a recording. Seed, folder and earlier rounds determine a round.

    Args:
        overrides: changes to params.yaml, as ``data=folder``, and to the strategies, as ``labels.test_clips=50``.
        budget: clips for training and validation.
        strategy: one of `STRATEGIES`.
        model: folder or ``models:/`` address of the model that the strategy uses.
        labels: folder of the rounds; by default ``labels`` in the project.

    Returns:
        The round's file.

    Raises:
        ConfigError: a setting is wrong, or the strategy needs a model that is not there.
        DataError: the folder cannot be used, or has no clip for a part that needs one.
    """
    if budget < 1:
        raise ConfigError(f"--budget {budget}: a round has at least one clip")
    choose, settings_model = lookup(strategy, STRATEGIES, "strategy")
    if model is not None and not settings_model.ASKS_MODEL:
        raise ConfigError(f"--model {model}: the strategy '{strategy}' asks no model")
    project = project_root()
    general, own, others = _read_settings(overrides, strategy, settings_model, project)
    config = compose(others, project)
    folder = ClipFolder.open(config)
    rounds = Rounds(project / "labels" if labels is None else labels)
    rounds.check_parts(folder.settings)
    before = rounds.chosen()
    if stranger := next((name for name in before if name not in folder.clips), ""):
        raise DataError(f"{rounds.folder}: '{stranger}' was suggested, but is not in {folder.settings.root}")
    number, test = rounds.last + 1, rounds.test()
    if not test:
        test = _draw_test(folder, general.test_clips, np.random.default_rng([config.seed, 0]))
        before |= {row.id: row for row in test}
    rng = np.random.default_rng([config.seed, number])
    free = [clip for clip in folder.open_clips() if clip.sample_id not in before]
    sides = {
        part: one_a_recording((clip for clip in free if clip.part == part), rng) for part in ("validation", "train")
    }
    n_validation = _validation_clips(folder, before, budget)
    validation = _readable(folder, sides["validation"], n_validation)
    if not validation and not _counts(folder, before)["validation"]:
        raise DataError(
            f"{folder.settings.root}: none of its recordings without boxes is for validation; set "
            f"data.folder.validation_share (now {folder.settings.validation_share:g}) or data.folder.seed for one"
        )
    rows = [_row(clip, "validation", "random", "drawn at random", "") for clip in validation]
    wanted = budget - len(rows)
    known = [clip for name, clip in folder.clips.items() if clip.part == "train" and (clip.annotated or name in before)]
    with Perceiver.open(model, config, folder) if own.ASKS_MODEL else nullcontext() as perceiver:
        candidates, pool = _make_pool(folder, sides["train"][: general.most_looked_at], known, perceiver)
        choices: Iterator[Choice] = choose(pool, own, rng)
        while wanted and (choice := next(choices, None)) is not None:
            for clip in _readable(folder, [candidates[choice.index]], 1):
                rows.append(_row(clip, "train", strategy, choice.why, f"{choice.score:.4f}"))
                wanted -= 1
    if not any(row.part == "train" for row in rows) and wanted:
        raise DataError(f"{folder.settings.root}: no clip for training is left that could be suggested")
    rounds.write_parts(folder.settings)
    rounds.write(rounds.folder / TEST, test)
    rounds.write(rounds.path(number), rows)
    _report(rounds, number, rows, budget)
    print("next:", shlex.join(["avsl", "labels", "export", *others, "--to", "label-studio"]))
    return rounds.path(number)


def _read_settings(
    overrides: Sequence[str], strategy: str, model: type[StrategyConfig], project: Path
) -> tuple[SuggestConfig, StrategyConfig, list[str]]:
    """Return the settings of all strategies, those of the chosen one, and the other overrides."""
    texts, parsed = parse_overrides(overrides)
    is_own = [override.key_or_group.startswith("labels.") for override in parsed]
    section = compose_group(
        "labels", "default", [text for text, own in zip(texts, is_own, strict=True) if own], project
    )
    chosen: Any = section.pop(strategy, None) or {}
    if other := next((key for key in section if key in STRATEGIES), ""):
        raise ConfigError(f"key 'labels.{other}' needs --strategy {other}: the strategy is '{strategy}'")
    return (
        SuggestConfig.read(section, "labels"),
        model.read(chosen, f"labels.{strategy}"),
        [text for text, own in zip(texts, is_own, strict=True) if not own],
    )


def _draw_test(folder: ClipFolder, wanted: int, rng: np.random.Generator) -> list[Suggestion]:
    there = sum(clip.part == "test" for clip in folder.clips.values() if clip.annotated)
    open_clips = one_a_recording((clip for clip in folder.open_clips() if clip.part == "test"), rng)
    drawn = _readable(folder, open_clips, max(0, wanted - there))
    if not drawn and not there:
        raise DataError(
            f"{folder.settings.root}: none of its recordings is for testing; set data.folder.test_share "
            f"(now {folder.settings.test_share:g}) or data.folder.seed for one"
        )
    return [_row(clip, "test", "random", "drawn at random, once", "") for clip in drawn]


def _counts(folder: ClipFolder, before: dict[str, Suggestion]) -> Counter[str]:
    """Count the annotated or suggested clips of each part."""
    return Counter(clip.part for name, clip in folder.clips.items() if clip.annotated or name in before)


def _validation_clips(folder: ClipFolder, before: dict[str, Suggestion], budget: int) -> int:
    """Return the number of validation clips of a round that brings the labels closest to the configured share."""
    counts = _counts(folder, before)
    share = folder.settings.validation_share
    lacking = round(share * (counts["validation"] + counts["train"] + budget)) - counts["validation"]
    return min(max(lacking, 0 if counts["validation"] else 1), budget)


def _make_pool(
    folder: ClipFolder, candidates: list[Entry], known: list[Entry], perceiver: Perceiver | None
) -> tuple[list[Entry], Pool]:
    """Return the candidates of a strategy; with a model, only those that it can decode."""
    perceptions = None
    if perceiver is not None:
        candidates, seen = perceiver.perceive(folder, candidates)
        perceptions = seen, perceiver.perceive(folder, known)[1]
    return candidates, Pool([clip.label for clip in candidates], Counter(clip.label for clip in known), perceptions)


def _readable(folder: ClipFolder, clips: Iterable[Entry], wanted: int) -> list[Entry]:
    """Return the first ``wanted`` decodable clips; a warning names broken ones before them."""
    found: list[Entry] = []
    for clip in clips:
        if len(found) == wanted:
            break
        try:
            folder.read_frame(clip)
            folder.read_sound(clip, _SAMPLE_RATE)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        found.append(clip)
    return found


def _row(clip: Entry, part: str, strategy: str, why: str, score: str) -> Suggestion:
    time = ""
    if clip.picture is not None and clip.picture.suffix.lower() in VIDEO_SUFFIXES:
        time = f"{media_duration(clip.picture) / 2:.3f}"
    return Suggestion(clip.sample_id, clip.source_id, time, part, strategy, why, score)


def _report(rounds: Rounds, number: int, rows: Sequence[Suggestion], budget: int) -> None:
    counts = Counter(row.part for row in rows)
    counts["test"] = len(rounds.test())
    files = {"test": rounds.folder / TEST, "validation": rounds.path(number), "train": rounds.path(number)}
    print_table([{"part": part, "clips": str(counts[part]), "file": str(files[part])} for part in _PARTS])
    if len(rows) < budget:
        log.warning("only %d of the %d clips asked for are left", len(rows), budget)
