"""The reader: what is written comes back, and what is broken is named."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.messages import facts
from tests.fixtures.shards import LENGTH, SAMPLES, SIDE, make_sample, prepare

from avsl.data.prepared.format import MANIFEST
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest
from avsl.errors import DataError


def test_round_trip_in_any_order(data: PreparedData) -> None:
    """Every column comes back as written, for rows in any order and repeated."""
    assert len(data) == len(SAMPLES)
    index = np.array([7, 0, 3, 3, 4, 1], dtype=np.int64)
    frames, waveforms = data.frames(index), data.waveforms(index)
    for k, i in enumerate(index.tolist()):
        sample = SAMPLES[i]
        np.testing.assert_array_equal(frames[k], sample.frame)
        np.testing.assert_array_equal(waveforms[k], sample.waveform.astype(np.float32) / 32768)
        boxes = data.boxes(i)
        if sample.boxes is None:
            assert boxes is None
        else:
            assert boxes is not None
            np.testing.assert_array_equal(boxes, sample.boxes)
        if sample.mask is not None:
            np.testing.assert_array_equal(data.object_masks(np.array([i]))[0], sample.mask)
    assert frames.dtype == np.uint8
    assert waveforms.dtype == np.float32
    assert data.sample_ids == [sample.sample_id for sample in SAMPLES]
    assert data.source_ids.tolist() == [sample.source_id for sample in SAMPLES]
    assert data.group_ids.tolist() == [sample.group_id for sample in SAMPLES]
    assert data.labels.tolist() == [sample.label for sample in SAMPLES]
    order = np.arange(len(data))[::-1]
    assert data.meta(order) == [SAMPLES[i].meta for i in order]
    assert data.annotated.tolist() == [not (sample.boxes is None and sample.mask is None) for sample in SAMPLES]
    for part in ("train", "test_swap", "validation"):
        expected = [i for i, sample in enumerate(SAMPLES) if sample.part == part]
        assert data.indices(part).tolist() == expected
        assert data.manifest.counts.get(part, 0) == len(expected)
    assert frames.flags.writeable
    assert len(data.frames(np.zeros(0, dtype=np.int64))) == 0


def test_rows_of_samples_come_in_the_order_asked_for(data: PreparedData) -> None:
    """A name gives its row; a name that the set does not have is refused with the folder's."""
    names = [SAMPLES[i].sample_id for i in (7, 0, 3, 3)]
    rows = data.rows_of(names)
    assert rows.tolist() == [7, 0, 3, 3]
    assert rows.dtype == np.int64
    assert data.rows_of([]).tolist() == []
    with pytest.raises(DataError, match="other") as refused:
        data.rows_of([*names, "other"])
    assert str(data.root) in str(refused.value)


def test_encoded_frames_are_the_pictures_of_raw_ones(data: PreparedData, tmp_path: Path) -> None:
    """JPEG frames come back as Pillow decodes them, in any order, and all else as with raw frames.

    A folder's raw shards are not kept when JPEG is asked for.
    """
    raw = data.frame_bytes
    assert raw == len(SAMPLES) * SIDE * SIDE * 3
    index = np.array([7, 0, 3, 3, 4, 1], dtype=np.int64)
    waveforms = data.waveforms(index)
    prepare(tmp_path, "jpeg")
    encoded = PreparedData.open(tmp_path)
    encoded.verify()
    expected, size = [], 0
    for sample in SAMPLES:
        stream = io.BytesIO()
        Image.fromarray(sample.frame).save(stream, "JPEG", quality=95)
        size += len(stream.getvalue())
        expected.append(np.asarray(Image.open(stream)))
    np.testing.assert_array_equal(encoded.frames(index), np.stack(expected)[index])
    assert encoded.frame_bytes == size
    assert encoded.frames(np.zeros(0, dtype=np.int64)).shape == (0, SIDE, SIDE, 3)
    np.testing.assert_array_equal(encoded.waveforms(index), waveforms)
    assert encoded.sample_ids == data.sample_ids
    assert encoded.manifest.content_hash != data.manifest.content_hash


def test_box_masks_are_the_union_of_truncated_half_open_boxes(data: PreparedData) -> None:
    """Box masks agree with a loop over pixels."""
    index = np.array([i for i, sample in enumerate(SAMPLES) if sample.boxes is not None], dtype=np.int64)
    expected = np.zeros((len(index), SIDE, SIDE), dtype=bool)
    corners = {0: [(0, 3, 6, 12)], 1: [], 3: [(1, 2, 5, 7), (5, 0, 11, 3)]}
    for k, i in enumerate(index.tolist()):
        for y in range(SIDE):
            for x in range(SIDE):
                expected[k, y, x] = any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in corners[i % 4])
    np.testing.assert_array_equal(data.box_masks(index), expected)


def test_the_truth_is_what_was_drawn(data: PreparedData) -> None:
    """Boxes where there are boxes, whatever the mask; the mask where there is nothing else; never nothing."""
    exact = [sample.boxes is None and sample.mask is not None for sample in SAMPLES]
    assert data.exact.tolist() == exact
    assert any(exact)
    known = np.flatnonzero(data.annotated)[::-1]
    for row, found in zip(known.tolist(), data.truth_masks(known), strict=True):
        one = np.array([row])
        np.testing.assert_array_equal(found, (data.object_masks if exact[row] else data.box_masks)(one)[0])
        if exact[row]:
            boxes = data.boxes(row)
            assert boxes is not None
            ((x0, y0, x1, y1),) = (boxes * SIDE).round().astype(int)
            rows, columns = np.nonzero(found)
            assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("side", [49, 64, 224])
def test_a_box_on_pixel_borders_keeps_its_pixels(tmp_path: Path, side: int) -> None:
    """float32(k / W) · W may fall below k; the mask must not lose that column."""
    columns = np.arange(side - 1)
    boxes = np.stack([columns / side, columns / side, (columns + 1) / side, np.ones(side - 1)], axis=1)
    sample = replace(
        make_sample(1), frame=np.zeros((side, side, 3), np.uint8), boxes=boxes.astype(np.float32), mask=None
    )

    @dataclass(frozen=True)
    class One:
        def __call__(self, k: int) -> ShardRows:
            """The rows of shard k."""
            return ShardRows([sample])

    manifest, _ = prepare_shards(
        tmp_path,
        One(),
        1,
        name="one",
        image_size=side,
        sample_rate=16000,
        n_samples_audio=LENGTH,
        classes=["b"],
        settings={},
        workers=1,
    )
    write_manifest(tmp_path, manifest)
    expected = np.tri(side, dtype=bool)
    expected[:, -1] = False
    np.testing.assert_array_equal(PreparedData.open(tmp_path).box_masks(np.array([0]))[0], expected)


def test_what_is_not_known_is_refused(data: PreparedData) -> None:
    """A missing annotation or mask, or a row that does not exist, is an error that names it."""
    with pytest.raises(DataError, match=facts("'s2' annotation")):
        data.box_masks(np.array([0, 2]))
    with pytest.raises(DataError, match=facts("'s0' mask")):
        data.object_masks(np.array([1, 0]))
    for row in (-1, len(SAMPLES)):
        with pytest.raises(IndexError, match="outside"):
            data.frames(np.array([row]))


def test_missing_and_truncated_files_are_named(data: PreparedData) -> None:
    """Opening a damaged set names the file and what is wrong with it."""
    shard = data.root / data.manifest.shards[1].file
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=facts("shard-00002.arrow bytes")):
        PreparedData.open(data.root)
    shard.unlink()
    with pytest.raises(DataError, match=facts("shard-00002.arrow missing")):
        PreparedData.open(data.root)
    shard.write_bytes(b"x" * len(whole))
    with pytest.raises(DataError, match=facts("shard-00002.arrow Arrow")):
        PreparedData.open(data.root)
    (data.root / MANIFEST).unlink()
    with pytest.raises(DataError, match=facts("manifest.json")):
        PreparedData.open(data.root)


def test_verify_sees_one_changed_byte(data: PreparedData) -> None:
    """One changed bit in a shard of the right size is found."""
    data.verify()
    shard = data.root / data.manifest.shards[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: SHA-256"):
        PreparedData.open(data.root).verify()


def test_verify_sees_an_exchanged_shard_list(data: PreparedData) -> None:
    """A manifest whose shards changed places no longer has its content hash."""
    path = data.root / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["shards"].reverse()
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json: content_hash"):
        PreparedData.open(data.root).verify()


@pytest.mark.parametrize(("content", "named"), [("{", "manifest.json"), ('{"name": "x"}', "manifest.json image_size")])
def test_a_broken_manifest_is_named(tmp_path: Path, content: str, named: str) -> None:
    """A manifest that is no JSON or lacks a key is an error that says which."""
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=facts(named)):
        PreparedData.open(tmp_path)
