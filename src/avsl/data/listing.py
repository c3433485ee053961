"""Finds the media files of entries in a data set's folders."""

from __future__ import annotations

import heapq
import os
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from avsl.data.annotation_files import as_boxes, read_list, read_table, source_of
from avsl.data.index import VIDEO_SUFFIXES, Anew, Entry, Index, ListedConfig
from avsl.data.media.audio import SOUND_SUFFIXES
from avsl.data.media.checks import PICTURE_SUFFIXES
from avsl.data.partition import add_pool, add_training_list
from avsl.errors import DataError, check_name

if TYPE_CHECKING:
    pass

# Between a file's name and its suffix: no name holds it, and it sorts before whatever else a name goes on with.
_END = "\0"


class Files(Mapping[str, Path]):
    """The files of one folder by their name without its suffix, in order of these names.

    Held as one block of text, some 25 bytes a file, where a dictionary of paths takes half a kilobyte.

    Args:
        folder: where they lie.
        names: text array, ascending: each name, ``_END`` and its suffix.
    """

    def __init__(self, folder: Path, names: pa.Array) -> None:
        self._folder = folder
        self._names = names

    def __getitem__(self, name: str) -> Path:
        place = bisect_left(self._names, name, key=_stem)
        if place == len(self._names) or _stem(self._names[place]) != name:
            raise KeyError(name)
        return self._folder / str(self._names[place].as_py()).replace(_END, "")

    def __iter__(self) -> Iterator[str]:
        return map(_stem, self._names)

    def __len__(self) -> int:
        return len(self._names)


def _stem(name: pa.StringScalar) -> str:
    return str(name.as_py().partition(_END)[0])


def files_by_id(folder: Path, suffixes: Sequence[str]) -> Files:
    """The files of a folder with one of ``suffixes``, by their name without it.

    Raises:
        DataError: there is no such folder, or two files have one name, or one a name that is no line of text.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    names = []
    with os.scandir(folder) as files:  # pathlib first makes a list of all
        for file in files:
            path = folder / file.name
            if path.suffix.lower() in suffixes:
                check_name(path)
                names.append(f"{path.stem}{_END}{path.suffix}")
    names.sort()
    for one, other in pairwise(names):
        if one.partition(_END)[0] == other.partition(_END)[0]:
            raise DataError(f"{folder}: both '{one.replace(_END, '')}' and '{other.replace(_END, '')}' are there")
    return Files(folder, pa.array(names, pa.string()))


@dataclass(frozen=True)
class Media:
    """Pictures and sounds by id; a video is both."""

    pictures: Mapping[str, Path]
    sounds: Mapping[str, Path]

    @classmethod
    def read(cls, root: Path) -> Media:
        """What lies in a folder: clips, or pictures in ``frames/`` with sounds in ``audio/``.

        Raises:
            DataError: the folder is missing or holds neither, or two files have one name.
        """
        clips = files_by_id(root, VIDEO_SUFFIXES)
        if clips:
            return cls(clips, clips)
        if not (root / "frames").is_dir() or not (root / "audio").is_dir():
            raise DataError(f"{root}: holds neither clips (*.mp4) nor the folders 'frames' and 'audio'")
        return cls(files_by_id(root / "frames", PICTURE_SUFFIXES), files_by_id(root / "audio", SOUND_SUFFIXES))

    def entry(self, name: str, source: Callable[[str], str] = source_of, **known: Any) -> Entry:
        """The row whose picture and sound have this name; ``known`` are further fields."""
        fields = {"picture": self.pictures.get(name), "sounds": (self.sounds.get(name),)}
        return Entry(name, source(name), name, **(fields | known))

    def masked_entry(self, masks: Path, name: str, **known: Any) -> Entry:
        """The row of this name with its mask in the folder ``masks``, a ``.npy`` array or a ``.png``."""
        if name not in self.pictures:  # a list's names lead to no file but through the names of files that are there
            return self.entry(name, **known)
        path = next((p for p in (masks / f"{name}.npy", masks / f"{name}.png") if p.is_file()), None)
        return self.entry(name, mask=path, broken="" if path else f"no mask (.png, .npy) in {masks}", **known)

    def pool(self, but: Container[str], source: Callable[[str], str] = source_of) -> Iterable[Entry]:
        """A row of ``train`` for every picture or sound whose name is not among ``but``, in order of the names."""

        def rows() -> Iterator[Entry]:
            for name, _ in groupby(heapq.merge(self.pictures, self.sounds)):
                if name not in but:
                    yield self.entry(name, source, part="train")

        return Anew(rows)


def add_silent(
    entries: Sequence[Entry], path: Path, media: Media, source: Callable[[str], str] = source_of
) -> tuple[list[Entry], int]:
    """Add the rows of an extended test set (SLAVC: Mo and Morgado, arXiv 2209.09634): frames with a sound not in view.

    Args:
        entries: the rows so far, with their parts.
        path: CSV with the columns video, audio, label; its rows labeled ``non-sounding`` are taken.
        media: where frames and sounds lie.
        source: the source of an id.

    Returns:
        All rows, and how many were left out as their frame's or their sound's source is learned from. The new rows'
        part is ``test_offscreen``, their source the frame's.

    Raises:
        DataError: the file is missing or not of that form.
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
            picture=media.pictures.get(video),
            sounds=(media.sounds.get(audio),),
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
    """Add the extended set's silent rows and the unlabeled rows: a published list, or whatever else is in the folder.

    Args:
        entries: the annotated rows, with their parts.
        config: names the lists.
        media: where frames and sounds lie.
        known: names of the annotated rows.
        data: name of the data set, for the error.
        source: the source of an id.

    Raises:
        DataError: a list is missing or wrong, or the training list leaks.
    """
    root, left_out = Path(config.root), 0
    if config.silent_list:
        entries, left_out = add_silent(entries, root / config.silent_list, media, source)
    if config.train_list:
        path = root / config.train_list
        ids = read_list(path, "training list")
        pool = Anew(lambda: (media.entry(name, source, part="train") for name in ids))
        return add_training_list(entries, pool, config.leak, path, f"data.{data}.leak", left_out)
    return add_pool(entries, media.pool(known, source), left_out)


def mixed_rows(pairs: Sequence[tuple[Entry, Entry]], part: str) -> tuple[list[Entry], int]:
    """Mix the sounds of test clips by twos: each frame hears both sounds, and its own source is to be found.

    This is how published code scores VGGSound-Duet and VGGSound-Instruments (AVGN: Mo and Tian, CVPR 2023).

    Args:
        pairs: clips with their parts.
        part: of the mixtures.

    Returns:
        Two rows for each pair of clips of ``test``, and how many rows of other pairs are left out, as a clip of theirs
        is learned from.
    """
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
