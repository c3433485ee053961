"""What a data set lists: its rows and their parts, and the readers and rules that data sets share.

A data set's own module turns published files into an `Index`; ``avsl.data.preparation`` does the rest.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from avsl.data.errors import DataError, check_name
from avsl.data.media import PICTURE_SUFFIXES, SOUND_SUFFIXES
from avsl.data.shards import FrameFormat
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

MIDDLE = 0.5
"""Of a video, as a share of its length."""

# A VGGSound clip is named after its video and the second it starts at.
_CLIP_NAME = re.compile(r"(?P<video>.{11})_\d{6}")

_Row = TypeVar("_Row", bound=BaseModel)


@dataclass(frozen=True, slots=True)  # there may be two hundred thousand
class Entry:
    """One row to prepare: a frame with a sound, and what is known of where the sound comes from.

    Attributes:
        sample_id: unique name of the row.
        source_id: the recording it comes from; a source lies on one side of a split.
        group_id: rows that share one frame share it.
        part: one of ``avsl.data.shards.PARTS``; empty until `assign_parts` decides.
        label: class name; empty where not known.
        picture: a picture, or a video that shows it; None where the folder has none.
        sounds: recordings, added up; None where the folder has none.
        boxes: (k, 4) x0, y0, x1, y1 as fractions of the frame, as annotated; k = 0 where nothing in view sounds; None
            where nobody drew boxes.
        mask: a picture or array that is not zero on the pixels that sound.
        time_s: which frame of a video, and where in the recording the sound is centred; None is `moment`.
        moment: the same as a share of the video's length.
        meta: small JSON values.
        broken: why it cannot be used, where the lists already tell.
        sound_source: the recording its sound comes from, where that is another than the frame's.
    """

    sample_id: str
    source_id: str
    group_id: str
    part: str = ""
    label: str = ""
    picture: Path | None = None
    sounds: tuple[Path | None, ...] = (None,)
    boxes: NDArray[np.float64] | None = None
    mask: Path | None = None
    time_s: float | None = None
    moment: float = MIDDLE
    meta: Mapping[str, Any] = field(default_factory=dict)
    broken: str = ""
    sound_source: str = ""

    @property
    def sources(self) -> set[str]:
        """Every recording that it is made of."""
        return {self.source_id, self.sound_source or self.source_id}

    @property
    def annotated(self) -> bool:
        """Whether somebody said where the sound comes from, if only that it comes from nowhere in view."""
        return self.boxes is not None or self.mask is not None

    def files(self) -> list[Path | None]:
        """Every file it needs; None for one that the folder lacks."""
        return [self.picture, *self.sounds, *([self.mask] if self.mask else [])]


@dataclass(frozen=True)
class Leak:
    """A row of a training list that belongs to a held-out part.

    Attributes:
        sample_id: the row.
        part: the part that holds it, or another row of its source.
        same: the row itself is held out, not only its source.
    """

    sample_id: str
    part: str
    same: bool


@dataclass(frozen=True)
class Anew(Iterable[Entry]):
    """Rows that are made anew whenever they are gone through: a list of them takes a kilobyte a row.

    Attributes:
        rows: begins to make them.
    """

    rows: Callable[[], Iterable[Entry]]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.rows())


@dataclass(frozen=True)
class Index:
    """All rows of a data set.

    Attributes:
        entries: the rows, to be gone through as often as needed; those of published test lists whether their files are
            there or not.
        leaks: rows of a training list that were dropped because they are held out.
        left_out: rows that belong to no side: unannotated media of held-out sources, and test rows whose frame is
            learned from.
    """

    entries: Iterable[Entry]
    leaks: Sequence[Leak] = ()
    left_out: int = 0


class IndexedConfig(StrictConfig):
    """What every data set on disk is prepared with.

    Attributes:
        root: the folder.
        image_size: side of the prepared frames, pixels.
        duration_s: of the prepared sound, at 16 kHz.
        max_broken: highest share of the listed rows that may be missing or unusable.
        shard_rows: most rows in one shard; on average there are some 43 % of it.
        frames: ``raw`` pixels, which load fastest, or ``jpeg`` (quality 95), a fraction of their size.
        frames_per_clip: rows of a training video that nobody annotated: 1 is its middle frame, n are the midpoints of n
            equal parts, each with the sound around it. They share their source and so their side. An annotated video
            stays one row, as its boxes are of the one frame that somebody looked at; label ratios are of all rows.
    """

    root: str
    image_size: int = Field(224, ge=16, le=1024)
    duration_s: float = Field(3.0, gt=0, le=60)
    max_broken: float = Field(0.1, ge=0, lt=1)
    shard_rows: int = Field(128, ge=1, le=4096)
    frames: FrameFormat = "raw"
    frames_per_clip: int = Field(1, ge=1, le=16)


class CutConfig(IndexedConfig):
    """A data set whose annotated rows are cut into train, validation and test by source.

    Attributes:
        test_share: of the annotated sources; published test sets are tests as a whole.
        validation_share: of the annotated sources that are not for testing.
        seed: draws the sources.
    """

    test_share: float = Field(1.0, ge=0, le=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)


LeakRule = Literal["stop", "drop"]
"""What becomes of a training list that shares rows or sources with held-out parts."""


class ListedConfig(CutConfig):
    """A data set with published lists of silent and of unlabelled rows.

    Attributes:
        silent_list: extended set: CSV of video, audio and ``non-sounding``, the rows of ``test_offscreen``; empty:
            none. A row whose frame or sound is learned from is left out.
        train_list: file with the ids of the unlabelled rows; empty: whatever else is in the folder and not held out.
        leak: ``stop`` where the training list holds rows or sources of the held-out parts, or ``drop`` those rows.
    """

    silent_list: str = ""
    train_list: str = ""
    leak: LeakRule = "stop"


# --- Which part a row belongs to -----------------------------------------------------------------------------


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
    """Add what else lies in the folder as unlabelled training rows, without the sources that are held out.

    Args:
        entries: the rows so far, with their parts.
        pool: rows of ``train`` without annotation, to be gone through more than once.
        left_out: rows left out before.
    """
    free, leaks = _held_out(entries, pool)
    return Index(Anew(lambda: chain(entries, free)), left_out=left_out + len(leaks))


def add_training_list(
    entries: Sequence[Entry], pool: Iterable[Entry], rule: LeakRule, path: Path, key: str, left_out: int = 0
) -> Index:
    """Add a published training list as unlabelled training rows.

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
    return Index(Anew(lambda: chain(entries, free)), leaks, left_out)


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
    free = Anew(lambda: (row for row in pool if row.source_id not in sources and row.sample_id not in rows))
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


# --- What published files say --------------------------------------------------------------------------------


def source_of(sample_id: str) -> str:
    """The video a VGGSound clip was cut from; any other id is its own source."""
    match = _CLIP_NAME.fullmatch(sample_id)
    return match["video"] if match else sample_id


def read_table(path: Path, columns: int, what: str) -> Iterator[list[str]]:
    """The rows of a CSV without a header, one after the other.

    Args:
        path: the file; empty lines do not count.
        columns: how many a row has at least.
        what: the file's role, for the error.

    Raises:
        DataError: the file is missing, cannot be read, no UTF-8 text, no CSV or empty, or a row is too short; names it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(line.rstrip("\n") for line in file), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if len(cells) < columns or not all(cells[:columns]):
                    said = f"row {number} has not the {columns} values of the {what}: {','.join(row)!r}"
                    raise DataError(f"{path}: {said}")
                empty = False
                yield cells
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from error
    if empty:
        raise DataError(f"{path}: the {what} is empty")


def read_list(path: Path, what: str) -> list[str]:
    """The ids of a list, one a line (first column of a CSV).

    Raises:
        DataError: as `read_table`, or an id is listed twice.
    """
    ids = [row[0] for row in read_table(path, 1, what)]
    for name, times in Counter(ids).items():
        if times > 1:
            raise DataError(f"{path}: '{name}' is listed {times} times")
    return ids


def read_json_rows(path: Path, model: type[_Row]) -> list[_Row]:
    """A JSON list of ``model``.

    Raises:
        DataError: the file is missing, cannot be read, no JSON or empty, or a row is not of that form; names the row
            and the key.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        rows: list[_Row] = TypeAdapter(list[model]).validate_json(content)  # type: ignore[valid-type]  # a type made at run time
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise DataError(f"{path}: not valid JSON: {first['ctx']['error']}") from None
        if not first["loc"]:
            raise DataError(f"{path}: not a list of annotations") from None
        row, *where = first["loc"]
        place = f"row {row}" + (f", '{'.'.join(map(str, where))}'" if where else "")
        raise DataError(f"{path}: {place}: {first['msg'].lower()}") from None
    if not rows:
        raise DataError(f"{path}: holds no annotation")
    return rows


class _BoxRow(BaseModel):
    file: str
    label: str = Field(alias="class")
    bbox: list[tuple[float, float, float, float]]


def read_annotations(path: Path) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Class and boxes as annotated, (k, 4) x0, y0, x1, y1, by sample id, in the file's order.

    Args:
        path: VGG-SS's JSON, a list of ``file``, ``class`` and ``bbox``; or a CSV with the columns file, class, x0, y0,
            x1, y1, one box a row and without numbers where nothing in view sounds. Fractions of the frame.

    Raises:
        DataError: the file is missing, not of that form, or names an id twice (JSON) or with two classes (CSV).
    """
    annotated: dict[str, tuple[str, NDArray[np.float64]]] = {}
    if path.suffix.lower() == ".csv":
        return _read_box_table(path)
    for row in read_json_rows(path, _BoxRow):
        if row.file in annotated:
            raise DataError(f"{path}: '{row.file}' is annotated twice")
        annotated[row.file] = row.label, as_boxes(row.bbox)
    return annotated


def _read_box_table(path: Path) -> dict[str, tuple[str, NDArray[np.float64]]]:
    header, *rows = read_table(path, 2, "annotation file")
    expected = ["file", "class", "x0", "y0", "x1", "y1"]
    if header != expected:
        raise DataError(f"{path}: its first row is {','.join(header)!r}, not {','.join(expected)!r}")
    labels: dict[str, str] = {}
    boxes: dict[str, list[list[float]]] = {}
    for number, (name, label, *corners) in enumerate(rows, start=2):
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}: '{name}' has the classes '{labels[name]}' and '{label}'")
        drawn = boxes.setdefault(name, [])
        if any(corners):
            try:
                x0, y0, x1, y1 = map(float, corners)
            except ValueError:
                raise DataError(f"{path}: row {number} has not four numbers for '{name}': {corners}") from None
            drawn.append([x0, y0, x1, y1])
    return {name: (label, as_boxes(boxes[name])) for name, label in labels.items()}


def as_boxes(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(k, 4); k may be 0."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


class _PixelRow(BaseModel):
    image: str
    audio: str
    gt_box: tuple[float, float, float, float]


def read_pixel_boxes(path: Path) -> list[tuple[str, str, NDArray[np.float64]]]:
    """Frame, sound and box of each row of the interactive benchmark's lists (Senocak et al., arXiv 2407.13676).

    The lists name files on their authors' machine; what counts begins after ``visual_frames/`` and ``audio_wav/``.
    Boxes are pixels of a 224 px frame, the end exclusive; one of zeros says that nothing in view sounds.

    Returns:
        The frame's and the sound's path in those folders, and (k, 4) fractions, k = 0 or 1, in the file's order.

    Raises:
        DataError: the file is missing or not of that form; names the row.
    """
    rows = []
    for number, row in enumerate(read_json_rows(path, _PixelRow)):
        _, _, image = row.image.partition("/visual_frames/")
        _, _, audio = row.audio.partition("/audio_wav/")
        if not image or not audio or any({"..", "/"} & {*Path(name).parts} for name in (image, audio)):
            raise DataError(f"{path}: row {number}: no file in visual_frames/ and audio_wav/: '{row.image}'")
        rows.append((image, audio, as_boxes([row.gt_box] if any(row.gt_box) else []) / 224))
    return rows


# --- What lies in folders ------------------------------------------------------------------------------------


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
        path: CSV with the columns video, audio, label; its rows labelled ``non-sounding`` are taken.
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
    """Add the extended set's silent rows and the unlabelled rows: a published list, or whatever else is in the folder.

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
