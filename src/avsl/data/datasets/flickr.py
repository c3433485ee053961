"""Flickr-SoundNet with the boxes of three annotators (Senocak et al., CVPR 2018, arXiv 1803.03849)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

import numpy as np

from avsl.data.annotation_files import as_boxes, read_list
from avsl.data.index import Entry, Index, ListedConfig
from avsl.data.listing import Media, add_unannotated
from avsl.data.partition import assign_parts
from avsl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME = 256
"""Boxes are drawn in pixels of a frame of this side."""


class FlickrConfig(ListedConfig):
    """A folder with ``frames/<id>.jpg``, ``audio/<id>.wav`` and ``Annotations/<id>.xml``, and the published lists.

    Attributes:
        annotations: folder of the XML files, from the root.
        test_list: file with the test ids.
        labeled_list: file with the ids of the labeled pool, which is cut into train and validation.
        train_list: published as ``flickr_10k.txt`` and ``flickr_144k.txt``.
        silent_list: published as ``flickr_test_plus_silent.csv``.
        test_share: not used, as the test rows are listed.
    """

    annotations: str = "Annotations"
    test_list: str = "flickr_test.csv"
    labeled_list: str = "flickr_sup_train.txt"
    train_list: str = "flickr_144k.txt"


def read_index(config: FlickrConfig) -> Index:
    """List the test rows, the labeled pool, the silent pairs and the unlabeled rows.

    Raises:
        DataError: a list is missing or wrong, an id is both labeled and tested, or the training list leaks.
    """
    root = Path(config.root)
    media = Media.read(root)
    tests = read_list(root / config.test_list, "test list")
    labeled = read_list(root / config.labeled_list, "list of labeled rows")
    both = set(tests) & set(labeled)
    if both:
        raise DataError(f"{root / config.labeled_list}: {len(both)} of its ids are test ids too, as '{min(both)}'")
    annotations = root / config.annotations
    rows = [media.entry(name, str) for name in [*tests, *labeled]]
    # A list's names lead to no file but through the names of files that are there.
    rows = [row if row.picture is None else _annotated(row, annotations / f"{row.sample_id}.xml") for row in rows]
    entries = assign_parts(rows, config, set(tests))
    return add_unannotated(entries, config, media, {*tests, *labeled}, "flickr", str)


def _annotated(entry: Entry, path: Path) -> Entry:
    """The row with its consensus boxes; every annotator's are kept for `avsl.functional.boxes.consensus_map`."""
    try:
        annotators = read_boxes(path)
    except DataError as error:
        return replace(entry, broken=str(error))
    drawn = np.concatenate([as_boxes([]), *annotators])
    agreed = consensus_boxes(annotators)
    broken = "" if len(agreed) else f"no two of {path.name}'s {len(annotators)} annotators agree on a pixel"
    return replace(entry, boxes=agreed / FRAME, meta={"boxes_256": drawn.tolist()}, broken=broken)


def consensus_boxes(annotators: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Boxes whose union is where at least two annotators agree.

    Published code adds up all boxes, so that two overlapping boxes of one annotator count as agreement; here they
    do not.

    Args:
        annotators: (k, 4) x0, y0, x1, y1 of each annotator.

    Returns:
        (n, 4), every overlap of a box with another annotator's.
    """
    agreed = as_boxes([])
    for one, other in combinations(annotators, 2):
        start = np.maximum(one[:, None, :2], other[None, :, :2])
        stop = np.minimum(one[:, None, 2:], other[None, :, 2:])
        overlaps = np.concatenate([start, stop], axis=2).reshape(-1, 4)
        agreed = np.concatenate([agreed, overlaps[(overlaps[:, :2] < overlaps[:, 2:]).all(axis=1)]])
    return agreed


def read_boxes(path: Path) -> list[NDArray[np.float64]]:
    """The boxes of each annotator, (k, 4) x0, y0, x1, y1 in 256 px.

    The file is root → object → bbox → (something that is skipped, xmin, ymin, xmax, ymax). Its publisher gives no
    schema; an object is taken for one annotator.

    Raises:
        DataError: the file is missing, cannot be read, is not well-formed or declares an entity, or a bbox has not four
            numbers.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    annotators: list[list[list[float]]] = []
    for number, texts in _bbox_texts(path):
        while len(annotators) <= number:
            annotators.append([])
        try:
            x0, y0, x1, y1 = map(float, texts[1:])
        except ValueError:
            raise DataError(f"{path}: a bbox holds {texts[1:]}, not xmin, ymin, xmax and ymax") from None
        annotators[number].append([x0, y0, x1, y1])
    return [as_boxes(boxes) for boxes in annotators]


def _bbox_texts(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The index of the root's child with each bbox, and the texts of the bbox's children."""
    # expat itself: ElementTree has no way to refuse the entities that expand without bound.
    found: list[tuple[int, list[str]]] = []
    open_tags: list[str] = []
    objects = 0

    def start(tag: str, _: Any) -> None:
        nonlocal objects
        open_tags.append(tag)
        if len(open_tags) == 2:
            objects += 1
        elif len(open_tags) == 3 and tag == "bbox":
            found.append((objects - 1, []))
        elif len(open_tags) == 4 and open_tags[2] == "bbox":
            found[-1][1].append("")

    def end(_: str) -> None:
        open_tags.pop()

    def text(data: str) -> None:
        if len(open_tags) == 4 and open_tags[2] == "bbox":
            found[-1][1][-1] += data

    def entity(name: str, *_: Any) -> None:
        raise DataError(f"{path}: declares the entity '{name}', which an annotation does not need")

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(content, True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: encodings that it does not know
        raise DataError(f"{path}: not well-formed XML: {error}") from None
    yield from found
