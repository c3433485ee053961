"""VGG-SS (Chen et al., CVPR 2021, arXiv 2104.02691) and folders laid out like it: real frames, sounds and boxes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from rich.console import Console

from avsl.data.contact import write_contact_sheet
from avsl.data.errors import DataError
from avsl.data.media import (
    PICTURE_SUFFIXES,
    SOUND_SUFFIXES,
    read_audio,
    read_frame,
    resize_frame,
)
from avsl.data.shards import (
    Manifest,
    PreparedData,
    Sample,
    ShardRows,
    file_hash,
    prepare_shards,
    write_manifest,
)
from avsl.files import write_text
from avsl.schema import StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE = 16000
QUARANTINE = "quarantine.csv"

Part = Literal["train", "validation", "test"]

# A VGGSound clip is named after its video and the second it starts at.
_CLIP_NAME = re.compile(r"(?P<video>.{11})_\d{6}")


class VGGSSConfig(StrictConfig):
    """A folder in VGG-SS's layout: an annotation file and ``frames/`` with ``audio/``, or clips ``<id>.mp4``.

    Attributes:
        root: the folder.
        annotations: JSON file in it, a list of ``file``, ``class`` and ``bbox`` (fractions of the frame).
        test_list: file in it with the test ids, one a line (first column of a CSV); empty: ``test_share`` of
            the annotated sources.
        test_share: used without ``test_list`` only.
        validation_share: of the annotated sources that are not for testing.
        image_size: side of the prepared frames, pixels (224 in published work).
        duration_s: of the prepared sound, from the middle of the recording, at 16 kHz.
        max_broken: highest share of annotated samples that may be unusable.
        seed: draws the validation (and test) sources.
        shard_rows: samples in one shard.
    """

    root: str
    annotations: str = "vggss.json"
    test_list: str = ""
    test_share: float = Field(0.2, ge=0, lt=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    image_size: int = Field(160, ge=16, le=1024)
    duration_s: float = Field(3.0, gt=0, le=60)
    max_broken: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    shard_rows: int = Field(128, ge=1, le=4096)


class _Annotation(BaseModel):
    file: str
    label: str = Field(alias="class")
    bbox: list[tuple[float, float, float, float]]


def read_annotations(path: Path) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Class and boxes as annotated, (k, 4) x0, y0, x1, y1, by sample id, in the file's order.

    Raises:
        DataError: the file is missing, no JSON of that form, or names an id twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    try:
        rows = [_Annotation.model_validate(row) for row in json.loads(path.read_bytes())]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    except (ValidationError, TypeError) as error:
        raise DataError(f"{path}: not a list of 'file', 'class' and 'bbox' (four numbers a box)") from error
    if not rows:
        raise DataError(f"{path}: holds no annotation")
    annotated: dict[str, tuple[str, NDArray[np.float64]]] = {}
    for row in rows:
        if row.file in annotated:
            raise DataError(f"{path}: '{row.file}' is annotated twice")
        annotated[row.file] = row.label, np.array(row.bbox, dtype=np.float64).reshape(-1, 4)
    return annotated


def clean_boxes(boxes: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Clamp boxes to [0, 1] and drop those that then cover no pixel of a size × size frame.

    Args:
        boxes: (k, 4) x0, y0, x1, y1; a few of VGG-SS hold -2.88e16, some have no width or height.
        size: side of the frame in pixels.

    Returns:
        (k', 4), k' <= k.
    """
    boxes = np.clip(np.nan_to_num(boxes, nan=0.0), 0.0, 1.0)
    pixels = (boxes * size).astype(np.int64)
    return boxes[(pixels[:, :2] < pixels[:, 2:]).all(axis=1)].astype(np.float32)


def source_of(sample_id: str) -> str:
    """The video a VGGSound clip was cut from; any other id is its own source."""
    match = _CLIP_NAME.fullmatch(sample_id)
    return match["video"] if match else sample_id


def assign_parts(ids: Sequence[str], test_ids: set[str] | None, config: VGGSSConfig) -> dict[str, Part]:
    """The part of each annotated sample, by source: two clips of one video never lie on two sides.

    A source's draw depends on the seed and its name alone, so further annotations move nobody.

    Args:
        ids: annotated samples.
        test_ids: the published test samples; None draws ``config.test_share`` of the sources.
        config: shares and seed.
    """
    test_sources = None if test_ids is None else {source_of(name) for name in test_ids}

    def part(source: str) -> Part:
        if test_sources is None:
            if _draw(f"{config.seed}:test:{source}") < config.test_share:
                return "test"
        elif source in test_sources:
            return "test"
        return "validation" if _draw(f"{config.seed}:validation:{source}") < config.validation_share else "train"

    return {name: part(source_of(name)) for name in ids}


def _draw(text: str) -> float:
    """A uniform number in [0, 1) that hangs on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


@dataclass(frozen=True)
class _Row:
    """One sample to decode; files are None where missing."""

    sample_id: str
    part: Part
    label: str
    boxes: NDArray[np.float64] | None
    picture: Path | None
    sound: Path | None


@dataclass(frozen=True)
class _Decode:
    """Decodes the rows of a shard."""

    rows: Sequence[_Row]
    image_size: int
    duration_s: float
    shard_rows: int

    def __call__(self, k: int) -> ShardRows:
        samples: list[Sample] = []
        rejected: list[tuple[str, str]] = []
        for row in self.rows[k * self.shard_rows : (k + 1) * self.shard_rows]:
            try:
                samples.append(self._sample(row))
            except DataError as error:
                rejected.append((row.sample_id, str(error)))
        return ShardRows(samples, rejected)

    def _sample(self, row: _Row) -> Sample:
        boxes = None if row.boxes is None else clean_boxes(row.boxes, self.image_size)
        if boxes is not None and row.boxes is not None and len(row.boxes) and not len(boxes):
            # An empty list would say that nothing in view sounds.
            raise DataError(f"{row.sample_id}: none of its {len(row.boxes)} boxes covers a pixel")
        if row.picture is None or row.sound is None:
            missing = "frame" if row.picture is None else "sound"
            raise DataError(f"{row.sample_id}: no {missing} in the folder")
        frame = resize_frame(read_frame(row.picture, None), self.image_size)
        sound = read_audio(row.sound, None, self.duration_s, SAMPLE_RATE)
        return Sample(
            sample_id=row.sample_id,
            source_id=source_of(row.sample_id),
            group_id=row.sample_id,
            part=row.part,
            label=row.label,
            frame=frame,
            waveform=np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16),
            boxes=boxes,
        )


def _media(root: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Picture and sound of every id in the folder."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    clips = {path.stem: path for path in root.glob("*.mp4")}
    if clips:
        return {name: (path, path) for name, path in clips.items()}
    if not (root / "frames").is_dir() or not (root / "audio").is_dir():
        raise DataError(f"{root}: holds neither clips (*.mp4) nor the folders 'frames' and 'audio'")
    pictures = {path.stem: path for path in (root / "frames").iterdir() if path.suffix in PICTURE_SUFFIXES}
    sounds = {path.stem: path for path in (root / "audio").iterdir() if path.suffix in SOUND_SUFFIXES}
    return {name: (pictures.get(name), sounds.get(name)) for name in pictures.keys() | sounds.keys()}


def _rows(config: VGGSSConfig) -> tuple[list[_Row], int]:
    """What to decode, and how many unannotated clips are left out as their video is held out."""
    root = Path(config.root)
    media = _media(root)
    annotated = read_annotations(root / config.annotations)
    test_ids: set[str] | None = None
    if config.test_list:
        path = root / config.test_list
        if not path.is_file():
            raise DataError(f"{path}: no such test list")
        test_ids = {line.split(",")[0].strip() for line in path.read_text().splitlines()} - {""}
        if not test_ids & annotated.keys():
            raise DataError(f"{path}: none of its {len(test_ids)} ids is annotated")
    parts = assign_parts(list(annotated), test_ids, config)
    rows = [
        _Row(name, parts[name], label, boxes, *media.get(name, (None, None)))
        for name, (label, boxes) in annotated.items()
    ]
    held_out = {source_of(name) for name, part in parts.items() if part != "train"}
    if test_ids is not None:
        held_out |= {source_of(name) for name in test_ids}
    bare = sorted(media.keys() - annotated.keys())
    usable = [name for name in bare if source_of(name) not in held_out]
    rows += [_Row(name, "train", "", None, *media[name]) for name in usable]
    return rows, len(bare) - len(usable)


def generate(config: VGGSSConfig, root: Path, workers: int) -> Manifest:
    """Decode the folder ``config.root`` into the prepared set ``root``.

    The annotated samples are cut into train, validation and test; media without annotation become unlabelled
    training rows unless their video is held out. What cannot be used goes to ``quarantine.csv`` with the reason.
    Interrupted, it goes on where it stopped; the bytes do not depend on ``workers``.

    Raises:
        DataError: the folder, its annotations or its test list cannot be used, or more than
            ``config.max_broken`` of the samples are unusable.
    """
    rows, left_out = _rows(config)
    make = _Decode(rows, config.image_size, config.duration_s, config.shard_rows)
    manifest, rejected = prepare_shards(
        root,
        make,
        -(-len(rows) // config.shard_rows),
        name="vggss",
        image_size=config.image_size,
        sample_rate=SAMPLE_RATE,
        n_samples_audio=round(config.duration_s * SAMPLE_RATE),
        classes=sorted({row.label for row in rows if row.boxes is not None}),
        settings=config.model_dump(exclude={"root"}) | _inputs(config, rows),
        workers=workers,
    )
    _write_quarantine(root / QUARANTINE, rejected)
    dropped = sum(
        len(row.boxes) - len(clean_boxes(row.boxes, config.image_size)) for row in rows if row.boxes is not None
    )
    Console(stderr=True).print(
        f"vggss: {len(rows) - len(rejected)} of {len(rows)} samples prepared, {len(rejected)} in {QUARANTINE}, "
        f"{dropped} boxes without a pixel dropped, {left_out} unannotated clips of held-out videos left out",
        soft_wrap=True,
    )
    if len(rejected) > config.max_broken * len(rows):
        reason = rejected[0][1]
        raise DataError(
            f"{config.root}: {len(rejected)} of {len(rows)} samples are unusable, more than max_broken = "
            f"{config.max_broken} allows ({root / QUARANTINE} lists them; the first: {reason})"
        )
    write_manifest(root, manifest)
    write_contact_sheet(PreparedData.open(root))
    return manifest


def _inputs(config: VGGSSConfig, rows: Sequence[_Row]) -> dict[str, Any]:
    """What the content hangs on besides the settings: shards made from other files or decoding are made again."""
    listing = hashlib.sha256()
    for row in rows:
        sizes = [path.stat().st_size if path else None for path in (row.picture, row.sound)]
        listing.update(json.dumps([row.sample_id, row.part, sizes]).encode())
    return {
        "annotations_sha256": file_hash(Path(config.root) / config.annotations),
        "media_sizes_sha256": listing.hexdigest(),
        "decoder_sha256": file_hash(Path(__file__).with_name("media.py")),
    }


def _write_quarantine(path: Path, rejected: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("sample_id", "reason"), *rejected])
    write_text(path, text.getvalue())
