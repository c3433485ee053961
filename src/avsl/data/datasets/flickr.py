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

# Boxes are in pixels of a frame of this side.
FRAME = 256


class FlickrConfig(ListedConfig):
    """A folder with ``frames/<id>.jpg``, ``audio/<id>.wav`` and ``Annotations/<id>.xml``, and the published lists.

    Attributes:
        annotations: folder of the XML files, relative to the root.
        test_list: file with the test ids.
        labeled_list: file with the ids of the labeled pool, which is divided into train and validation.
        train_list: file with the ids of the unlabeled rows; published are ``flickr_10k.txt`` and ``flickr_144k.txt``.
        silent_list: file with the silent pairs; published is ``flickr_test_plus_silent.csv``.
        test_share: unused, because the test rows are listed.
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
    # A listed name is opened only if it names an existing picture, so no list can lead out of the folder.
    rows = [row if row.picture is None else _annotated(row, annotations / f"{row.sample_id}.xml") for row in rows]
    entries = assign_parts(rows, config, set(tests))
    return add_unannotated(entries, config, media, {*tests, *labeled}, "flickr", str)


def _annotated(entry: Entry, path: Path) -> Entry:
    """Add the consensus boxes to a row, and all annotators' boxes for `avsl.functional.boxes.consensus_map`."""
    try:
        annotators = read_boxes(path)
    except DataError as error:
        return replace(entry, broken=str(error))
    individual = np.concatenate([as_boxes([]), *annotators])
    agreed = consensus_boxes(annotators)
    broken = "" if len(agreed) else f"no two of {path.name}'s {len(annotators)} annotators agree on a pixel"
    return replace(entry, boxes=agreed / FRAME, meta={"boxes_256": individual.tolist()}, broken=broken)


def consensus_boxes(annotators: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return boxes whose union is the area on which at least two annotators agree.

    Published code adds up all boxes, so that two overlapping boxes of one annotator count as agreement; here they
    do not.

    Args:
        annotators: (k, 4) x0, y0, x1, y1 for each annotator.

    Returns:
        (n, 4), the overlaps of boxes of different annotators.
    """
    agreed = as_boxes([])
    for one, other in combinations(annotators, 2):
        start = np.maximum(one[:, None, :2], other[None, :, :2])
        stop = np.minimum(one[:, None, 2:], other[None, :, 2:])
        overlaps = np.concatenate([start, stop], axis=2).reshape(-1, 4)
        agreed = np.concatenate([agreed, overlaps[(overlaps[:, :2] < overlaps[:, 2:]).all(axis=1)]])
    return agreed


def read_boxes(path: Path) -> list[NDArray[np.float64]]:
    """Read the boxes of each annotator, (k, 4) x0, y0, x1, y1 in pixels of a 256 px frame.

    The file's tree is root → object → bbox → (an ignored element, xmin, ymin, xmax, ymax). No schema is published; each
    object is read as one annotator.

    Raises:
        DataError: the file is missing, unreadable or malformed, declares an entity, or a bbox does not have four
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
    """Yield, for each bbox, the index of its object and the texts of its children."""
    # expat, because ElementTree cannot refuse entities, which may expand without bound.
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
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        raise DataError(f"{path}: not well-formed XML: {error}") from None
    yield from found
