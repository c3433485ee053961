"""What must hold of any boxes, thresholds and manifests."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsl.data.prepared.format import PARTS, Manifest, Sample
from avsl.data.prepared.preparation import clean_boxes
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest, write_shard
from avsl.functional.boxes import box_mask
from avsl.functional.geometry import warp
from avsl.functional.localization import CONVENTIONS, binarize, ciou_by_threshold, predict_mask
from avsl.inference.predictor import find_boxes

_MIRROR = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])

_SIDES = st.sampled_from([7, 16, 30])


def _pixel_box(side: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    """x0 < x1 and y0 < y1 in pixels."""
    pair = st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(pair, pair).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


_boxes = _SIDES.flatmap(lambda side: st.tuples(st.just(side), st.lists(_pixel_box(side), max_size=4)))


def _sample(name: str, boxes: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None, side: int) -> Sample:
    frame, waveform = np.zeros((side, side, 3), np.uint8), np.zeros(4, np.int16)
    return Sample(name, name, name, "train", "c", frame, waveform, boxes)


def _opened(root: Path, samples: Sequence[Sample], side: int) -> PreparedData:
    write_shard(root / "shard-0.arrow", samples)
    size = (root / "shard-0.arrow").stat().st_size
    write_manifest(
        root,
        Manifest(
            name="boxes",
            image_size=side,
            sample_rate=16000,
            n_samples_audio=4,
            counts={"train": len(samples)},
            classes=["c"],
            settings={},
            shards=[{"file": "shard-0.arrow", "rows": len(samples), "bytes": size, "sha256": ""}],
            content_hash="",
        ),
    )
    return PreparedData.open(root)


@given(drawn=_boxes)
@settings(max_examples=40, deadline=None)
def test_boxes_that_end_on_pixels_are_those_pixels_from_the_annotation_to_the_shard(
    drawn: tuple[int, list[tuple[int, int, int, int]]],
) -> None:
    """Pixels → fractions → cleaned → float32 in a shard → pixels, and fractions → pixels, agree to the pixel."""
    side, pixels = drawn
    expected = np.zeros((side, side), bool)
    for x0, y0, x1, y1 in pixels:
        expected[y0:y1, x0:x1] = True
    fractions = np.array(pixels, np.float64).reshape(-1, 4) / side
    kept = clean_boxes(fractions, side)
    assert len(kept) == len(pixels)
    with tempfile.TemporaryDirectory() as root:
        data = _opened(Path(root), [_sample("a", kept, side)], side)
        np.testing.assert_array_equal(data.box_masks(np.array([0]))[0], expected)
    np.testing.assert_array_equal(box_mask(fractions, side), expected)


@given(drawn=_boxes)
@settings(max_examples=40, deadline=None)
def test_a_flip_of_the_boxes_is_a_flip_of_their_mask(drawn: tuple[int, list[tuple[int, int, int, int]]]) -> None:
    """Mirroring corners or pixels is the same; so is looking through the geometry of a flip."""
    side, pixels = drawn
    mirrored = [(side - x1, y0, side - x0, y1) for x0, y0, x1, y1 in pixels]
    with tempfile.TemporaryDirectory() as root:
        rows = [np.array(boxes, np.float32).reshape(-1, 4) / np.float32(side) for boxes in (pixels, mirrored)]
        data = _opened(Path(root), [_sample(str(k), boxes, side) for k, boxes in enumerate(rows)], side)
        mask, other = data.box_masks(np.array([0, 1]))
    np.testing.assert_array_equal(mask[:, ::-1], other)
    seen = warp(torch.from_numpy(mask)[None, None].float(), _MIRROR[None], mode="nearest")[0, 0]
    np.testing.assert_array_equal(seen.numpy() > 0, other)


@given(box=_SIDES.flatmap(lambda side: st.tuples(st.just(side), _pixel_box(side))))
@settings(max_examples=40, deadline=None)
def test_a_box_is_found_again_in_its_mask(box: tuple[int, tuple[int, int, int, int]]) -> None:
    """By the boxes around an exact mask in a shard, and by the boxes around a map of confidence."""
    side, (x0, y0, x1, y1) = box
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    (found,) = find_boxes(mask.astype(np.float32), 0.5)
    np.testing.assert_array_equal(np.array(found[:4]) * side, [x0, y0, x1, y1])
    plain = _sample("a", None, side)
    with tempfile.TemporaryDirectory() as root:
        data = _opened(Path(root), [Sample(**{**vars(plain), "mask": mask})], side)
        around = data.boxes(0)
        np.testing.assert_array_equal(data.object_masks(np.array([0]))[0], mask)
    assert around is not None
    np.testing.assert_allclose(around[0] * side, [x0, y0, x1, y1], rtol=1e-6)


_maps = st.integers(0, 10_000).map(
    lambda seed: torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)).mul(8).round().div(8)
)


@given(maps=_maps, threshold=st.sampled_from([k / 8 for k in range(9)]))
@settings(max_examples=40, deadline=None)
def test_a_threshold_belongs_to_the_mask_under_every_convention_that_has_one(
    maps: torch.Tensor, threshold: float
) -> None:
    """Cells at the threshold sound; a higher threshold gives a part of a lower one's mask; serving draws the same."""
    truth = torch.ones(3, 16, 16)
    fixed = predict_mask(maps, truth, "fixed", threshold)
    assert torch.equal(fixed, maps >= threshold)
    assert not (predict_mask(maps, truth, "fixed", threshold + 0.125) & ~fixed).any()
    for row, mask in zip(maps.numpy(), fixed.numpy(), strict=True):
        covered = np.zeros((16, 16), bool)
        for x0, y0, x1, y1, _ in find_boxes(row, threshold):
            covered[round(y0 * 16) : round(y1 * 16), round(x0 * 16) : round(x1 * 16)] = True
        assert not (mask & ~covered).any()
    scores = ciou_by_threshold(maps, (maps >= threshold).float(), torch.tensor([threshold]))
    assert torch.equal(scores.flatten(), torch.ones(3).where((maps >= threshold).flatten(1).any(1), scores.flatten()))


@given(maps=_maps, area=st.integers(1, 256))
@settings(max_examples=40, deadline=None)
def test_conventions_without_a_threshold_take_as_many_pixels_as_they_say(maps: torch.Tensor, area: int) -> None:
    """At least half at the median, less than half above it; the oracle never more than the truth's area."""
    truth = torch.zeros(3, 256)
    truth[:, :area] = 1
    counts = {
        convention: binarize(maps, convention, truth=truth.view(3, 16, 16)).flatten(1).sum(1)
        for convention in CONVENTIONS
        if not convention.startswith("fixed")
    }
    assert (counts["median"] >= 128).all()
    assert torch.equal(counts["median"], counts["median_aligned"])
    assert (counts["median_strict"] < 128).all()
    assert (counts["adaptive"] < area).all()


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_manifests = st.builds(
    Manifest,
    name=_text,
    image_size=st.integers(1, 512),
    sample_rate=st.integers(1, 48_000),
    n_samples_audio=st.integers(1, 10**6),
    counts=st.dictionaries(st.sampled_from(PARTS), st.integers(0, 10**6)),
    classes=st.lists(_text, max_size=4),
    settings=st.dictionaries(_text, st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), _text)),
    shards=st.just([]),
    content_hash=_text,
    expected=st.dictionaries(st.sampled_from(PARTS), st.integers(0, 10**6)),
)


@given(manifest=_manifests)
@settings(max_examples=60, deadline=None)
def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest) -> None:
    """Whatever its names are, newlines, quotes and other scripts among them."""
    with tempfile.TemporaryDirectory() as root:
        write_manifest(Path(root), manifest)
        assert Manifest.model_validate_json((Path(root) / "manifest.json").read_bytes()) == manifest


class _Rows:
    """One shard of samples with these names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, k: int) -> ShardRows:
        """All of them."""
        return ShardRows([_sample(name, None, 2) for name in self._names])


@given(names=st.lists(_text.filter(bool), min_size=1, max_size=6, unique=True))
@settings(max_examples=30, deadline=None)
def test_a_prepared_set_has_the_names_it_was_given(names: list[str]) -> None:
    """Ids survive the shard; the set agrees with its manifest's hashes."""
    with tempfile.TemporaryDirectory() as root:
        manifest, rejected = prepare_shards(
            Path(root),
            _Rows(names),
            1,
            name="names",
            image_size=2,
            sample_rate=16000,
            n_samples_audio=4,
            classes=[],
            settings={},
            workers=1,
        )
        write_manifest(Path(root), manifest)
        data = PreparedData.open(root)
        data.verify()
        assert data.sample_ids == names
        assert not rejected
