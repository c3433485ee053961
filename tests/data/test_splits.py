"""Splits: nested, stratified, grouped, disjoint, and proof against a changed file."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fixtures.messages import facts

from avsl.data.prepared.format import Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import ShardRows, prepare_shards, write_manifest
from avsl.data.splits import RatioOf, Split, SplitConfig, make_split
from avsl.errors import DataError
from avsl.schema import ConfigError

Row = tuple[str, str, str, bool]  # source, part, label, annotated


@dataclass(frozen=True)
class Rows:
    """One shard of minimal samples."""

    rows: list[Row]

    def __call__(self, k: int) -> ShardRows:
        """All rows, as shard k."""
        box = np.array([[0, 0, 1, 1]], dtype=np.float32)
        frame, waveform = np.zeros((2, 2, 3), np.uint8), np.zeros(2, np.int16)
        return ShardRows(
            [
                Sample(f"id{i}", source, f"id{i}", part, label, frame, waveform, box if annotated else None)
                for i, (source, part, label, annotated) in enumerate(self.rows)
            ]
        )


def prepared(root: Path, rows: list[Row]) -> PreparedData:
    """A prepared set of these rows."""
    manifest, _ = prepare_shards(
        root,
        Rows(rows),
        1,
        name="rows",
        image_size=2,
        sample_rate=16000,
        n_samples_audio=2,
        classes=sorted({row[2] for row in rows}),
        settings={"rows": len(rows)},
        workers=1,
    )
    write_manifest(root, manifest)
    return PreparedData.open(root)


def simple(n: int, classes: int = 4) -> list[Row]:
    """Training rows of as many sources, and a few of the other parts."""
    rows: list[Row] = [(f"t{i}", "train", f"c{i % classes}", True) for i in range(n)]
    rows += [(f"v{i}", "validation", "c0", True) for i in range(3)]
    return rows + [(f"s{i}", part, "c0", True) for i, part in enumerate(("test", "test_swap", "test_swap"))]


def ratio(value: float, seed: int = 0, of: RatioOf = "all") -> SplitConfig:
    """The settings of a split."""
    return SplitConfig(label_ratio=value, ratio_of=of, seed=seed)


def test_parts_go_where_they_belong(tmp_path: Path) -> None:
    """Training rows are labeled or unlabeled; the other parts are taken over whole."""
    data = prepared(tmp_path, simple(40))
    split = make_split(data, ratio(0.25))
    assert len(split.labeled) == 10
    assert sorted(split.labeled + split.unlabeled) == sorted(data.sample_ids[:40])
    assert split.validation == data.sample_ids[40:43]
    assert split.tests == {"test": data.sample_ids[43:44], "test_swap": data.sample_ids[44:]}
    assert split.data_hash == data.manifest.content_hash


@given(
    sources=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=60),
    ratios=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    seed=st.integers(0, 1000),
)
@example(sources=[(0, 1), (1, 2)] * 30, ratios=(0.1, 0.5), seed=0)
@settings(max_examples=30, deadline=None)
def test_nested_grouped_and_disjoint(sources: list[tuple[int, int]], ratios: tuple[float, float], seed: int) -> None:
    """The smaller labeled set lies in the larger; no row or source is on both sides."""
    rows: list[Row] = [
        (f"source{s}", "train", f"c{label}", True) for s, (label, n) in enumerate(sources) for _ in range(n)
    ]
    with tempfile.TemporaryDirectory() as root:
        data = prepared(Path(root), rows)
        small, large = (make_split(data, ratio(value, seed)) for value in sorted(ratios))
    assert set(small.labeled) <= set(large.labeled)
    source = dict(zip(data.sample_ids, data.source_ids, strict=True))
    for split, value in ((small, min(ratios)), (large, max(ratios))):
        assert not set(split.labeled) & set(split.unlabeled)
        assert len(split.labeled) + len(split.unlabeled) == len(rows)
        assert not {source[i] for i in split.labeled} & {source[i] for i in split.unlabeled}
        wanted = max(1, round(value * len(rows)))
        assert wanted <= len(split.labeled) < wanted + 3, "at most the rest of one source more"


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), value=st.floats(0.01, 1), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_every_ratio_holds_the_classes_in_proportion(sizes: list[int], value: float, seed: int) -> None:
    """Each class has its share of the labels, to within two rows."""
    rows: list[Row] = [(f"{label}-{j}", "train", f"c{label}", True) for label, n in enumerate(sizes) for j in range(n)]
    with tempfile.TemporaryDirectory() as root:
        data = prepared(Path(root), rows)
        split = make_split(data, ratio(value, seed))
    label = dict(zip(data.sample_ids, data.labels, strict=True))
    counts = Counter(label[i] for i in split.labeled)
    share = len(split.labeled) / len(rows)
    for k, n in enumerate(sizes):
        assert abs(counts[f"c{k}"] - share * n) <= 2


def test_the_seed_decides_and_repeats(tmp_path: Path) -> None:
    """Equal seeds give equal splits, other seeds others."""
    data = prepared(tmp_path, simple(200))
    assert make_split(data, ratio(0.1)) == make_split(data, ratio(0.1))
    first, second = (set(make_split(data, ratio(0.1, seed)).labeled) for seed in (0, 1))
    assert len(first & second) < 10
    assert make_split(data, ratio(0.1)).content_hash != make_split(data, ratio(0.1, 1)).content_hash


def test_only_annotated_rows_are_labeled_and_their_source_is_not_reused(tmp_path: Path) -> None:
    """Labels go to annotated rows; the rest of a labeled source is left out."""
    rows: list[Row] = [(f"t{i // 2}", "train", "c", i % 4 == 0) for i in range(40)]
    data = prepared(tmp_path, rows)
    split = make_split(data, ratio(0.25))
    assert split.labeled == [f"id{i}" for i in range(0, 40, 4)]
    assert split.unlabeled == [f"id{i}" for i in range(40) if i % 4 > 1]


@pytest.mark.parametrize(
    ("value", "of", "labeled"),
    [(0.1, "all", 10), (0.3, "all", 30), (1.0, "all", 30), (0.1, "annotated", 3), (1.0, "annotated", 30)],
)
def test_a_ratio_is_of_all_rows_or_of_the_annotated_ones(
    tmp_path: Path, value: float, of: RatioOf, labeled: int
) -> None:
    """30 of 100 rows are annotated; a ratio of 1 is all labels there are."""
    data = prepared(tmp_path, [(f"t{i}", "train", "c", i < 30) for i in range(100)])
    split = make_split(data, ratio(value, of=of))
    assert (len(split.labeled), len(split.unlabeled), split.ratio_of) == (labeled, 100 - labeled, of)
    assert set(split.labeled) <= set(data.sample_ids[:30])


def test_a_ratio_that_asks_for_more_than_there_is_says_what_there_is(tmp_path: Path) -> None:
    """How many are asked for and annotated, and the highest ratio."""
    data = prepared(tmp_path, [(f"t{i}", "train", "c", i < 30) for i in range(100)])
    with pytest.raises(DataError, match=facts("label_ratio 0.5 50 100 30 0.3 ratio_of=annotated")):
        make_split(data, ratio(0.5))


def test_without_any_boxes_all_rows_are_unlabeled(tmp_path: Path) -> None:
    """As for self-supervised training."""
    data = prepared(tmp_path, [(f"t{i}", "train", "c", False) for i in range(10)])
    for value in (0.1, 1.0):
        split = make_split(data, ratio(value))
        assert (split.labeled, split.unlabeled) == ([], data.sample_ids)


def test_at_least_one_row_is_labeled(tmp_path: Path) -> None:
    """However small the ratio, one row is labeled."""
    assert len(make_split(prepared(tmp_path, simple(20)), ratio(0.001)).labeled) == 1


def test_a_source_in_two_parts_is_refused(tmp_path: Path) -> None:
    """A source in training and test is an error that names it."""
    data = prepared(tmp_path, [("a", "train", "c", True), ("a", "test", "c", True)])
    with pytest.raises(DataError, match=facts("'a' 'train' 'test'")):
        make_split(data, ratio(1.0))


def test_test_parts_may_share_a_source(tmp_path: Path) -> None:
    """A frame that is tested with its own sound and with another one is on one side."""
    rows = [("a", "train", "c", True), ("b", "test", "c", True), ("b", "test_offscreen", "", True)]
    assert make_split(prepared(tmp_path, rows), ratio(1.0)).tests == {"test": ["id1"], "test_offscreen": ["id2"]}


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, float("nan")])
def test_ratio_out_of_range(value: float) -> None:
    """A ratio outside (0, 1] is refused by key."""
    with pytest.raises(ConfigError, match=r"split\.label_ratio"):
        SplitConfig.read({"label_ratio": value}, "split")


def test_file_round_trip_and_tampering(tmp_path: Path) -> None:
    """A split reads back equal; a missing, changed or cut file is refused."""
    split = make_split(prepared(tmp_path / "data", simple(20)), ratio(0.2))
    path = tmp_path / "split.json"
    with pytest.raises(DataError, match=facts("split.json")):
        Split.load(path)
    split.save(path)
    assert Split.load(path) == split
    content = json.loads(path.read_text())
    content["labeled"].append(content["unlabeled"].pop())
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"split\.json: content_hash"):
        Split.load(path)
    path.write_text(json.dumps(content)[:50])
    with pytest.raises(DataError, match=facts("split.json")):
        Split.load(path)
