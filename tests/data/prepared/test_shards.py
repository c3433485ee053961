"""The prepared format: what is written comes back, and what is broken is named."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avsl.data.prepared.format import MANIFEST, FrameFormat, Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest, write_shard
from avsl.errors import DataError
from avsl.files import whole_file

SIDE, LENGTH = 12, 40
BOXES = [
    np.array([[0.0, 0.25, 0.5, 1.0]], dtype=np.float32),
    np.zeros((0, 4), dtype=np.float32),
    None,
    np.array([[1 / 12, 2 / 12, 5 / 12, 7 / 12], [0.49, 0.0, 0.999, 0.3]], dtype=np.float32),
]


def make_sample(i: int) -> Sample:
    """A random sample that depends on its number alone; some lack boxes or a mask."""
    rng = np.random.default_rng(i)
    return Sample(
        sample_id=f"s{i}",
        source_id=f"source{i // 2}",
        group_id=f"g{i}",
        part="train" if i % 3 else "test_swap",
        label="größe" if i % 2 else "b",
        frame=rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        waveform=rng.integers(-32768, 32768, LENGTH, dtype=np.int16),
        boxes=BOXES[i % len(BOXES)],
        mask=None if i % 5 == 0 else rng.random((SIDE, SIDE)) < 0.3,
        meta={"snr_db": i / 4},
    )


@dataclass(frozen=True)
class MakeShards:
    """Four samples a shard; shard 1 is empty as its source is broken."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        if k == 1:
            return ShardRows([], [("clip", "no sound")])
        return ShardRows([make_sample(4 * k + j) for j in range(4)])


SAMPLES = [make_sample(i) for i in (0, 1, 2, 3, 8, 9, 10, 11)]


def prepare(root: Path, frames: FrameFormat = "raw") -> list[tuple[str, str]]:
    """Make the three shards and their manifest; what was rejected."""
    manifest, rejected = prepare_shards(
        root,
        MakeShards(),
        3,
        name="tiny",
        image_size=SIDE,
        sample_rate=16000,
        n_samples_audio=LENGTH,
        classes=["b", "größe"],
        settings={"k": 1},
        workers=1,
        frames=frames,
    )
    write_manifest(root, manifest)
    return rejected


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """The prepared set of SAMPLES."""
    prepare(tmp_path)
    return PreparedData.open(tmp_path)


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
    with pytest.raises(DataError, match="'s2' has no annotation"):
        data.box_masks(np.array([0, 2]))
    with pytest.raises(DataError, match="'s0' has no exact object mask"):
        data.object_masks(np.array([1, 0]))
    for row in (-1, len(SAMPLES)):
        with pytest.raises(IndexError, match="outside"):
            data.frames(np.array([row]))


def test_rejected_sources_are_reported_and_an_empty_shard_is_left_out(tmp_path: Path) -> None:
    """Rejections are reported again when nothing is left to make."""
    for _ in range(2):
        assert prepare(tmp_path) == [("clip", "no sound")]
    assert [shard.file for shard in PreparedData.open(tmp_path).manifest.shards] == [
        "shard-00000.arrow",
        "shard-00002.arrow",
    ]


def test_files_of_an_earlier_larger_set_are_removed(tmp_path: Path) -> None:
    """Stale shards and temporary files do not survive a preparation."""
    (tmp_path / "shard-00007.arrow").write_bytes(b"old")
    (tmp_path / ".shard-00001.arrow.99.part").write_bytes(b"half")
    prepare(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "shard-00007.arrow" not in names
    assert not [name for name in names if name.endswith(".part")]


def test_missing_and_truncated_files_are_named(data: PreparedData) -> None:
    """Opening a damaged set names the file and what is wrong with it."""
    shard = data.root / data.manifest.shards[1].file
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"shard-00002\.arrow: the shard has \d+ bytes, not the"):
        PreparedData.open(data.root)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00002\.arrow: the shard is missing"):
        PreparedData.open(data.root)
    shard.write_bytes(b"x" * len(whole))
    with pytest.raises(DataError, match=r"shard-00002\.arrow: not a readable Arrow file"):
        PreparedData.open(data.root)
    (data.root / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
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


@pytest.mark.parametrize(
    ("content", "named"), [("{", "not a valid manifest"), ('{"name": "x"}', "image_size: field required")]
)
def test_a_broken_manifest_is_named(tmp_path: Path, content: str, named: str) -> None:
    """A manifest that is no JSON or lacks a key is an error that says which."""
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=named):
        PreparedData.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"part": "tset"}, "'tset' is none of train"),
        ({"frame": np.zeros((SIDE, SIDE, 3), np.float32)}, "frame is float32"),
        ({"frame": np.zeros((SIDE, SIDE + 1, 3), np.uint8)}, "frame is uint8"),
        ({"waveform": np.zeros(LENGTH - 1, np.int16)}, "waveform is int16"),
        ({"mask": np.zeros((SIDE, SIDE), np.uint8)}, "mask is uint8"),
        ({"boxes": np.zeros(4, np.float32)}, r"boxes have shape \(4,\)"),
        ({"boxes": np.array([[0.1, 0.1, np.nan, 0.5]], np.float32)}, "not x0 < x1"),
        ({"boxes": np.array([[0.1, 0.1, 1.1, 0.5]], np.float32)}, "not x0 < x1"),
        ({"boxes": np.array([[0.5, 0.1, 0.5, 0.5]], np.float32)}, "not x0 < x1"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    """A sample of another type, shape or range is refused by name, and no file is left."""
    with pytest.raises(DataError, match=f"sample 's1': .*{named}"):
        write_shard(tmp_path / "shard.arrow", [make_sample(0), replace(make_sample(1), **change)])  # type: ignore[arg-type]  # one field of any type per case
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails changes nothing and leaves no temporary file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with whole_file(path) as part:
            part.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
