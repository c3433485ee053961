"""Finds the media files of entries in a data set's folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avsl.data.annotation_files import Annotation, as_boxes, normal_name, read_list, read_table
from avsl.data.index import VIDEO_SUFFIXES, Entry, Index, LazyEntries, ListedConfig
from avsl.data.media.audio import SOUND_SUFFIXES
from avsl.data.media.checks import PICTURE_SUFFIXES
from avsl.data.partition import add_pool, add_training_list
from avsl.data.recordings import source_of
from avsl.errors import DataError, check_name

# Suffixes of sounds; those after SOUND_SUFFIXES are decoded like the sound track of a video.
_SOUNDS = (*SOUND_SUFFIXES, ".m4a", ".aac", ".opus", ".oga", ".wma", ".aif", ".aiff", ".mka", *VIDEO_SUFFIXES)


def files_by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """The paths of a folder's files with one of ``suffixes``, by their stem in Unicode form NFC, sorted.

    Names that begin with a dot are skipped. Paths are strings, because a `Path` takes three times the memory.

    Raises:
        DataError: the folder is missing, two files have one stem, or a name is refused by `check_name`.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, str] = {}
    with os.scandir(folder) as files:  # pathlib would build a list of all files first
        for file in files:
            stem, suffix = _split(file.name)
            if suffix.lower() not in suffixes or stem.startswith("."):
                continue
            check_name(folder / file.name)
            path = os.path.join(folder, file.name)  # noqa: PTH118  # faster for 200,000 files
            other = found.setdefault(normal_name(stem), path)
            if other != path:
                first, second = sorted((Path(other).name, file.name))
                raise DataError(f"{folder}: both '{first}' and '{second}' exist")
    return dict(sorted(found.items()))


def _split(name: str) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix."""
    return os.path.splitext(name)  # noqa: PTH122  # faster for 200,000 files


def _class_folders(root: Path) -> dict[str, str]:
    """The videos in the folders of a folder, by ``FOLDER/NAME``."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {
        f"{normal_name(folder.name)}/{name}": path
        for folder in folders
        for name, path in files_by_id(folder, VIDEO_SUFFIXES).items()
    }


@dataclass(frozen=True)
class Media:
    """The paths of pictures and sounds by id; a video is both.

    Attributes:
        pictures: paths of the frames.
        sounds: paths of the sounds.
        by_class: whether ids are ``CLASS/NAME``.
        notes: messages about files that are not read.
    """

    pictures: Mapping[str, str]
    sounds: Mapping[str, str]
    by_class: bool = False
    notes: Sequence[str] = ()

    @classmethod
    def read(cls, root: Path, class_folders: bool = False) -> Media:
        """Read the media of a folder: pictures in ``frames/`` with sounds in ``audio/``, or clips.

        Args:
            root: the folder.
            class_folders: whether clips may be in folders that are named after classes.

        Raises:
            DataError: the folder is missing or holds none of these, or two files have one name.
        """
        clips = files_by_id(root, VIDEO_SUFFIXES)
        if (root / "frames").is_dir() and (root / "audio").is_dir():
            pictures, sounds = files_by_id(root / "frames", PICTURE_SUFFIXES), files_by_id(root / "audio", _SOUNDS)
            if pictures or sounds or not clips:
                stray = [
                    f"{root}: {len(clips)} videos beside 'frames' and 'audio' are not read, as '{name}'"
                    for name in clips
                ]
                return cls(pictures, sounds, notes=stray[:1])
        if clips:
            return cls(clips, clips)
        if class_folders and (clips := _class_folders(root)):
            return cls(clips, clips, by_class=True)
        kinds = "*.mp4, also in folders named after classes" if class_folders else "*.mp4"
        raise DataError(f"{root}: holds neither clips ({kinds}) nor the folders 'frames' and 'audio'")

    def names(self) -> list[str]:
        """The name of every picture or sound, in order."""
        return sorted(self.pictures.keys() | self.sounds.keys())

    def find(self, name: str, label: str = "") -> str:
        """The id of ``name`` in a user's file, which may have a suffix, a folder or a Windows separator."""
        path = name.replace("\\", "/")
        stem, suffix = _split(path)
        if suffix.lower() not in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES, *_SOUNDS):
            stem = path
        last = stem.rpartition("/")[2]
        candidates = (name, path, stem, path.rpartition("/")[2], last, f"{label}/{last}")
        return next((known for known in candidates if known in self.pictures or known in self.sounds), name)

    def entry(self, name: str, source: Callable[[str], str] = source_of, **known: Any) -> Entry:
        """Make the row of a picture and a sound with this name; ``known`` are further fields."""
        fields = {"source_id": source(name), "picture": self.picture(name), "sounds": (self.sound(name),)}
        if self.by_class:
            fields["label"] = name.partition("/")[0]
        return Entry(sample_id=name, group_id=name, **(fields | known))

    def picture(self, name: str) -> Path | None:
        """The path of a picture; None if there is none."""
        return Path(self.pictures[name]) if name in self.pictures else None

    def sound(self, name: str) -> Path | None:
        """The path of a sound; None if there is none."""
        return Path(self.sounds[name]) if name in self.sounds else None

    def annotated(self, known: Mapping[str, Annotation], source: Callable[[str], str] = source_of) -> list[Entry]:
        """Make the rows of an annotation file."""
        return [
            self.entry(name, source_id=row.recording or source(name), label=row.label, boxes=row.boxes)
            for name, row in known.items()
        ]

    def masked_entry(self, masks: Path, name: str, **known: Any) -> Entry:
        """Make the row of this name with its mask in the folder ``masks``, a ``.npy`` array or a ``.png``."""
        if name not in self.pictures:  # names of a list must not lead to files outside the folders
            return self.entry(name, **known)
        path = next((p for p in (masks / f"{name}.npy", masks / f"{name}.png") if p.is_file()), None)
        return self.entry(name, mask=path, broken="" if path else f"no mask (.png, .npy) in {masks}", **known)

    def pool(self, but: Container[str], source: Callable[[str], str] = source_of) -> Iterable[Entry]:
        """A row of ``train`` for each picture or sound whose name is not in ``but``, ordered by name."""
        return LazyEntries(lambda: (self.entry(name, source, part="train") for name in self.names() if name not in but))


def add_silent(
    entries: Sequence[Entry], path: Path, media: Media, source: Callable[[str], str] = source_of
) -> tuple[list[Entry], int]:
    """Add the rows of an extended test set (SLAVC: Mo and Morgado, arXiv 2209.09634): frames with an off-screen sound.

    Args:
        entries: the rows so far, with their parts.
        path: CSV with the columns video, audio, label; of which the rows labeled ``non-sounding`` are added.
        media: the frames and sounds.
        source: the recording of an id.

    Returns:
        All rows, and the number of rows that were left out because the recording of their frame or sound is in training
        or validation. New rows are in ``test_offscreen`` and belong to the recording of their frame.

    Raises:
        DataError: the file is missing or invalid.
    """
    header, *rows = read_table(path, 3, "list of silent rows")
    if header != ["video", "audio", "label"]:
        raise DataError(f"{path}: its first row is {','.join(header)!r}, not 'video,audio,label'")
    silent = [
        Entry(
            f"{video}+{audio}",
            source(video),
            video,
            part="test_offscreen",
            picture=media.picture(video),
            sounds=(media.sound(audio),),
            boxes=as_boxes([]),
            sound_source=source(audio),
        )
        for video, audio, label, *_ in rows
        if label == "non-sounding"
    ]
    learned = {entry.source_id for entry in entries if not entry.part.startswith("test")}
    kept = [entry for entry in silent if learned.isdisjoint(entry.sources)]
    return [*entries, *kept], len(silent) - len(kept)


def add_unannotated(
    entries: Sequence[Entry],
    config: ListedConfig,
    media: Media,
    known: Container[str],
    data: str,
    source: Callable[[str], str] = source_of,
) -> Index:
    """Add the extended set's silent rows and the unlabeled rows: of a published list, or all others of the folder.

    Args:
        entries: the annotated rows, with their parts.
        config: settings with the lists.
        media: the frames and sounds.
        known: names of the annotated rows.
        data: name of the data set, for the error.
        source: the recording of an id.

    Raises:
        DataError: a list is missing or wrong, or the training list leaks.
    """
    root, left_out = Path(config.root), 0
    if config.silent_list:
        entries, left_out = add_silent(entries, root / config.silent_list, media, source)
    if config.train_list:
        path = root / config.train_list
        ids = read_list(path, "training list")
        pool = LazyEntries(lambda: (media.entry(name, source, part="train") for name in ids))
        return add_training_list(entries, pool, config.leak, path, f"data.{data}.leak", left_out)
    return add_pool(entries, media.pool(known, source), left_out)


def add_mixtures(clips: Sequence[Entry], path: Path, annotations: str, part: str) -> tuple[list[Entry], int]:
    """Mix the sounds of pairs of test clips: each frame is paired with both sounds, and its own source is the truth.

    Published code scores VGGSound-Duet and VGGSound-Instruments like this (AVGN: Mo and Tian, CVPR 2023).

    Args:
        clips: the annotated clips with their parts.
        path: CSV without a header: clip, class, second clip, its class.
        annotations: the file that names the annotated clips, for the error.
        part: the part of the mixtures.

    Returns:
        Two rows for each pair of clips of ``test``, and the number of rows of other pairs, which are left out because
        one of their clips is a training or validation clip.

    Raises:
        DataError: the file is missing or wrong, or a clip of a pair is not annotated.
    """
    known = {clip.sample_id: clip for clip in clips}
    pairs = []
    for number, (one, _, other, *_) in enumerate(read_table(path, 4, "list of pairs"), start=1):
        for name in (one, other):
            if name not in known:
                raise DataError(f"{path}: row {number}: '{name}' is not annotated in {annotations}")
        pairs.append((known[one], known[other]))
    tests = [pair for pair in pairs if all(clip.part == "test" for clip in pair)]
    rows = [
        replace(
            own,
            sample_id=f"{first.sample_id}+{second.sample_id}/{k}",
            part=part,
            sounds=first.sounds + second.sounds,
            meta={"sounding": [first.label, second.label]},
        )
        for first, second in tests
        for k, own in enumerate((first, second))
    ]
    return rows, 2 * (len(pairs) - len(tests))
