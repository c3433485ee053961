"""Flickr-SoundNet: three annotators' boxes, the labeled pool, the leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.messages import facts, says

from avsl.data.datasets.flickr import consensus_boxes, read_boxes
from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.functional.boxes import consensus_map

Prepare = Callable[..., PreparedData]
Boxes = list[tuple[int, int, int, int]]


def write_xml(path: Path, annotators: list[Boxes]) -> None:
    """An annotation as published: an object per annotator, whose bbox begins with something to skip."""
    path.parent.mkdir(exist_ok=True)
    tags = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        "<object>"
        + "".join(
            "<bbox><id>1</id>" + "".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, box, strict=True)) + "</bbox>"
            for box in boxes
        )
        + "</object>"
        for boxes in annotators
    ]
    path.write_text(f"<annotation>{''.join(objects)}</annotation>")


@pytest.fixture
def folder(tmp_path: Path, add_row: Callable[[Path, str, int], None]) -> Path:
    """A test row, three labeled and two unlabeled ones, and the lists."""
    root = tmp_path / "flickr"
    for k, name in enumerate(("100", "201", "202", "203", "301", "302")):
        add_row(root, name, k)
    for name in ("100", "201", "202", "203"):
        write_xml(root / "Annotations" / f"{name}.xml", [[(0, 0, 128, 256)], [(64, 0, 256, 256)], [(0, 0, 16, 16)]])
    (root / "flickr_test.csv").write_text("100,7\n")
    (root / "flickr_sup_train.txt").write_text("201\n202\n203\n")
    (root / "flickr_144k.txt").write_text("201\n301\n302\n")
    return root


def test_consensus_is_where_two_annotators_agree() -> None:
    """A loop over pixels; one annotator's overlapping boxes are no agreement."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        annotators = []
        for k in rng.integers(0, 4, size=3):
            start = rng.integers(0, 20, size=(k, 2))
            annotators.append(np.concatenate([start, start + rng.integers(1, 12, size=(k, 2))], axis=1).astype(float))
        drawn = np.zeros((32, 32), bool)
        for x0, y0, x1, y1 in consensus_boxes(annotators).astype(int):
            drawn[y0:y1, x0:x1] = True
        for y in range(32):
            for x in range(32):
                votes = sum(
                    any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes.tolist()) for boxes in annotators
                )
                assert drawn[y, x] == (votes >= 2)


def test_rows_have_consensus_boxes_and_keep_every_annotators(folder: Path, prepare: Prepare) -> None:
    """Tests are the listed ids; the labeled pool gives train and validation; the rest is unlabeled."""
    data = prepare("flickr", folder, validation_share=0.4)
    assert data.sample_ids == ["100", "201", "202", "203", "301", "302"]
    assert data.parts[0] == "test"
    assert set(data.parts[1:4]) <= {"train", "validation"}
    assert data.parts[4:].tolist() == ["train", "train"]
    assert data.annotated.tolist() == [True] * 4 + [False] * 2
    boxes = data.boxes(0)
    assert boxes is not None
    assert {tuple(box) for box in boxes.tolist()} == {(0.25, 0, 0.5, 1), (0, 0, 0.0625, 0.0625)}
    everyone = np.array(data.meta(np.array([0]))[0]["boxes_256"]) / 256
    np.testing.assert_array_equal(data.box_masks(np.array([0]))[0], consensus_map(everyone, 32) == 1)


def test_rows_without_consensus_or_annotation_are_quarantined(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: Callable[[Path], list[Mapping[str, Any]]]
) -> None:
    """No agreement, an entity, no numbers, no file, no XML: each in one sentence, and n of N says so."""
    annotations = folder / "Annotations"
    write_xml(annotations / "201.xml", [[(0, 0, 100, 100), (50, 50, 200, 200)], [(200, 200, 256, 256)]])
    (annotations / "202.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "10">]><a><object><bbox><i/><x>&b;</x></bbox></object></a>'
    )
    (annotations / "203.xml").write_text("<a><object><bbox><i>1</i><x>1</x><y>2</y><z>3</z></bbox></object></a>")
    (annotations / "100.xml").unlink()
    data = prepare("flickr", folder, max_broken=0.9)
    assert data.sample_ids == ["301", "302"]
    assert (data.manifest.counts.get("test", 0), data.manifest.expected["test"]) == (0, 1)
    found = {row["sample_id"]: row["reason"] for row in read_csv(tmp_path / "out" / "quarantine.csv")}
    assert says(found["201"], "201.xml annotators pixel")
    assert says(found["202"], "202.xml entity 'b'")
    assert says(found["203"], "203.xml bbox ['1', '2', '3']")
    assert says(found["100"], "100.xml")
    (annotations / "202.xml").write_text("<a><object>")
    with pytest.raises(DataError, match=r"202\.xml: not well-formed XML"):
        read_boxes(annotations / "202.xml")


def test_the_extended_set_and_the_folder_as_pool(folder: Path, prepare: Prepare) -> None:
    """A silent pair's frame is a test frame; without a list the rest of the folder, but what it hears, is the pool."""
    (folder / "silent.csv").write_text("video,audio,label\n100,301,non-sounding\n201,301,non-sounding\n")
    data = prepare("flickr", folder, train_list="", silent_list="silent.csv", validation_share=0.0)
    assert data.manifest.counts == {"train": 4, "test": 1, "test_offscreen": 1}
    assert data.sample_ids[int(data.indices("test_offscreen")[0])] == "100+301"


def test_an_id_on_both_sides_is_refused(folder: Path, prepare: Prepare) -> None:
    """In the labeled pool and in the unlabeled list."""
    (folder / "flickr_144k.txt").write_text("100\n301\n")
    with pytest.raises(DataError, match=facts("flickr_144k.txt 1 2 data.flickr.leak=drop")):
        prepare("flickr", folder)
    (folder / "flickr_sup_train.txt").write_text("201\n100\n")
    with pytest.raises(DataError, match=facts("flickr_sup_train.txt 1 '100'")):
        prepare("flickr", folder)


@pytest.mark.parametrize(("name", "rows", "leaked"), [("10k", 10000, 1), ("144k", 144000, 20)])
def test_published_training_lists_leak(
    published_root: Path, read_index: Callable[..., Index], name: str, rows: int, leaked: int
) -> None:
    """How many ids of each list are test ids."""
    settings = {"train_list": f"flickr_{name}.txt", "validation_share": 0.0}
    with pytest.raises(DataError, match=facts(leaked, rows, "'test'")):
        read_index("flickr", published_root, **settings)


def test_published_lists(published_root: Path, read_index: Callable[..., Index]) -> None:
    """249 test ids and 4,750 labeled ones, 13 of which the smaller training list names again."""
    settings = {"train_list": "flickr_10k.txt", "leak": "drop", "validation_share": 0.0}
    index = read_index("flickr", published_root, **settings)
    assert Counter(entry.part for entry in index.entries) == {"test": 249, "train": 4750 + 10000 - 1 - 13}


def test_published_extended_set(published_root: Path, read_index: Callable[..., Index]) -> None:
    """250 silent pairs, and not one of their frames is learned from."""
    index = read_index(
        "flickr", published_root, silent_list="flickr_test_plus_silent.csv", train_list="flickr_10k.txt", leak="drop"
    )
    silent = sum(entry.part == "test_offscreen" for entry in index.entries)
    assert (silent, index.left_out) == (250, 0)
