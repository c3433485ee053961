"""Loading: what a step draws depends on the seed and the step's number alone."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.fixtures.messages import facts

from avsl.data.loading import RowLoader, RowReader, StepLoader, TrainingRows, endless
from avsl.data.prepared.format import Sample
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import MakeShard, ShardRows, prepare_shards, write_manifest
from avsl.errors import DataError
from avsl.models.front_ends import LogMel, LogMelConfig

COUNT, SIDE, LENGTH = 20, 8, 1600
LABELED, UNLABELED = np.arange(0, 6), np.arange(6, 17)


@dataclass(frozen=True)
class Make:
    """Ten samples a shard, without boxes from number ``bare`` on."""

    bare: int = COUNT

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        samples = [_sample(i) for i in range(10 * k, 10 * k + 10)]
        return ShardRows([*samples[: max(0, self.bare - 10 * k)], *map(_bare, samples[max(0, self.bare - 10 * k) :])])


class Films:
    """Frames of three recordings in turn, ten a shard."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        return ShardRows([replace(_sample(i), source_id=f"film{i % 3}") for i in range(10 * k, 10 * k + 10)])


def _bare(sample: Sample) -> Sample:
    return replace(sample, boxes=None)


def _sample(i: int) -> Sample:
    rng = np.random.default_rng(i)
    return Sample(
        sample_id=f"s{i}",
        source_id=f"s{i}",
        group_id=f"s{i}",
        part="train",
        label="c",
        frame=rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        waveform=rng.integers(-9000, 9000, LENGTH, dtype=np.int16),
        boxes=np.array([[0, 0, (1 + i % 8) / 8, 1]], np.float32),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Twenty rows in two shards; row i's box covers its first 1 + i mod 8 columns."""
    return _prepared(tmp_path_factory.mktemp("rows"), Make())


def _prepared(root: Path, make: MakeShard) -> PreparedData:
    manifest, _ = prepare_shards(
        root,
        make,
        COUNT // 10,
        name="rows",
        image_size=SIDE,
        sample_rate=16000,
        n_samples_audio=LENGTH,
        classes=["c"],
        settings={},
        workers=1,
    )
    write_manifest(root, manifest)
    return PreparedData.open(root)


@pytest.fixture(scope="module")
def front_end() -> LogMel:
    """A small spectrogram."""
    return LogMel(LogMelConfig(n_fft=256, n_mels=16))


@pytest.fixture(scope="module")
def reader(data: PreparedData, front_end: LogMel) -> RowReader:
    """All rows, their spectrograms cached."""
    return RowReader(data, [front_end], np.arange(COUNT))


def _loader(
    reader: RowReader,
    unlabeled: np.ndarray[tuple[int], np.dtype[np.int64]] = UNLABELED,
    seed: int = 0,
    *,
    masks: bool = True,
) -> StepLoader:
    return StepLoader(
        reader,
        LABELED,
        unlabeled,
        batch_size=7,
        labeled_batch_size=3,
        steps_per_epoch=4,
        seed=seed,
        masks=masks,
        hidden=len(unlabeled) > 0,
    )


def _drawn(rows: TrainingRows) -> tuple[int, list[int], list[int]]:
    return rows.step, rows.labeled.index.tolist(), [] if rows.unlabeled is None else rows.unlabeled.index.tolist()


@given(size=st.integers(1, 12), seed=st.integers(0, 50), start=st.integers(0, 60), count=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_each_round_is_a_shuffle_and_any_start_goes_on(size: int, seed: int, start: int, count: int) -> None:
    """Cut into rounds the stream holds every item once a round, and a piece is the same wherever one begins."""
    pool = np.arange(100, 100 + size)
    stream = endless(pool, seed, 0, size * 110)
    for round_ in stream[: size * 5].reshape(5, size):
        assert sorted(round_) == pool.tolist()
    end = min(start + count, size * 110)
    if start < end:
        np.testing.assert_array_equal(endless(pool, seed, start, end - start), stream[start:end])


def test_rounds_and_seeds_shuffle_differently() -> None:
    """No round repeats the one before, and another seed draws another stream."""
    pool = np.arange(30)
    stream = endless(pool, 0, 0, 90).reshape(3, 30)
    assert not (stream[0] == stream[1]).all()
    assert not (stream[1] == stream[2]).all()
    assert not (endless(pool, 1, 0, 30) == stream[0]).all()


def test_a_step_has_the_sizes_asked_for(reader: RowReader) -> None:
    """Labeled and unlabeled rows come from their pools in their numbers; without unlabeled ones all are labeled."""
    for rows in _loader(reader):
        _, labeled, unlabeled = _drawn(rows)
        assert len(labeled) == 3
        assert len(unlabeled) == 4
        assert set(labeled) <= set(LABELED)
        assert set(unlabeled) <= set(UNLABELED)
        assert rows.labeled.mask is not None
        assert rows.unlabeled is not None
        assert rows.unlabeled.mask is None, "no label leaks"
        assert rows.hidden is not None
        for row, mask in zip(unlabeled, rows.hidden, strict=True):
            assert float(mask.sum()) == SIDE * (1 + row % 8)
    whole = _loader(reader, np.array([], np.int64)).rows(0)
    assert len(whole.labeled.index) == 7
    assert whole.unlabeled is None
    assert whole.hidden is None


def test_unlabeled_rows_that_nobody_annotated_have_no_hidden_truth(tmp_path: Path) -> None:
    """A pool of clips without boxes is drawn like any other."""
    bare = RowReader(_prepared(tmp_path / "rows", Make(bare=16)), [], np.arange(COUNT))
    for rows in _loader(bare):
        assert rows.unlabeled is not None
        assert rows.hidden is None
    assert _loader(bare, UNLABELED[:-1]).rows(0).hidden is not None


def test_masks_are_read_where_labels_are_used(reader: RowReader) -> None:
    """Without, the same rows come bare, beside unlabeled ones and alone."""
    for unlabeled in (UNLABELED, UNLABELED[:0]):
        bare, labeled = (_loader(reader, unlabeled, masks=masks).rows(0).labeled for masks in (False, True))
        assert bare.mask is None
        assert labeled.mask is not None
        assert torch.equal(bare.index, labeled.index)


def test_rows_are_drawn_evenly(reader: RowReader) -> None:
    """Over whole rounds of the pools every row comes equally often."""
    loader = _loader(reader)
    steps = [_drawn(loader.rows(step)) for step in range(2 * 11)]
    labeled = np.bincount(np.concatenate([drawn for _, drawn, _ in steps]), minlength=COUNT)
    unlabeled = np.bincount(np.concatenate([drawn for _, _, drawn in steps]), minlength=COUNT)
    assert set(labeled[LABELED]) == {11}
    assert set(unlabeled[UNLABELED]) == {8}


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 6, 8])
def test_a_resumed_loader_draws_what_would_have_come(reader: RowReader, stop: int) -> None:
    """From any step, in mid-epoch or between epochs, the rest is that of the uninterrupted run."""
    loader = _loader(reader)
    whole = [_drawn(rows) for _ in range(3) for rows in loader]
    assert [step for step, _, _ in whole] == list(range(12))
    interrupted = _loader(reader)
    seen: list[tuple[int, list[int], list[int]]] = []
    while len(seen) < stop:
        for rows in interrupted:
            seen.append(_drawn(rows))
            if len(seen) == stop:
                break
    resumed = _loader(reader)
    resumed.load_state_dict(interrupted.state_dict())
    while len(seen) < 12:
        seen += [_drawn(rows) for rows in resumed]
    assert seen == whole


def test_epochs_end_where_they_should(reader: RowReader) -> None:
    """An epoch has its steps; one resumed in the middle ends with it, and another seed draws other rows."""
    loader = _loader(reader)
    assert len(loader) == len(list(loader)) == 4
    loader.load_state_dict({"next": 6})
    assert [rows.step for rows in loader] == [6, 7]
    assert [rows.step for rows in loader] == [8, 9, 10, 11]
    assert _drawn(_loader(reader, seed=1).rows(0)) != _drawn(_loader(reader).rows(0))


def test_rows_are_read_as_they_are(reader: RowReader, front_end: LogMel) -> None:
    """Frames normalized, masks of the boxes, and cached spectrograms equal to the front end's own, in any order."""
    index = np.array([13, 2, 2, 19])
    rows = reader(index, masks=True)
    assert rows.pixels.dtype == torch.uint8
    samples = [_sample(int(i)) for i in index]
    for k, sample in enumerate(samples):
        expected = (sample.frame / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(rows.frame[k].permute(1, 2, 0).numpy(), expected, atol=1e-5)
        heard = front_end(torch.from_numpy(sample.waveform.astype(np.float32) / 32768)[None])
        torch.testing.assert_close(rows.features[front_end.key][k : k + 1], heard)
    assert rows.waveform is None
    assert rows.mask is not None
    assert rows.mask.sum((1, 2)).tolist() == [SIDE * (1 + int(i) % 8) for i in index]
    assert reader(index, masks=False).mask is None


def test_rows_of_one_recording_have_one_number(tmp_path: Path) -> None:
    """Samples of one recording share it in whatever order they are read; others have others."""
    reader = RowReader(_prepared(tmp_path, Films()), [], np.arange(COUNT))
    drawn = np.array([7, 1, 12, 4, 7, 19])
    recording = reader(drawn, masks=False).recording
    assert ((recording[:, None] == recording).numpy() == (drawn[:, None] % 3 == drawn % 3)).all()


def test_cached_features_stay_out_of_memory_and_leave_no_file(data: PreparedData, front_end: LogMel) -> None:
    """The cache is a mapped file without a name beside the prepared set; a row that is not in it is no other row."""
    before = sorted(data.root.parent.rglob("*"))
    read = RowReader(data, [front_end, front_end], np.array([4, 9]))
    assert sorted(data.root.parent.rglob("*")) == before
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{data.root.parent}/" in line]
    assert any("(deleted)" in line for line in mapped)
    rows = read(np.array([9]), masks=False)
    heard = front_end(torch.from_numpy(data.waveforms(np.array([9]))))
    assert torch.equal(rows.features[front_end.key], heard)
    with pytest.raises(IndexError, match=facts("row 5")):
        read(np.array([4, 5]), masks=False)


def test_readers_of_one_open_set_compute_once(
    data: PreparedData, front_end: LogMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second reader of the same rows hears nothing again; of other rows, or of the set opened anew, it does."""
    heard: list[int] = []
    waveforms = PreparedData.waveforms

    def counted(self: PreparedData, index: NDArray[np.int64]) -> NDArray[np.float32]:
        heard.extend(index.tolist())
        return waveforms(self, index)

    monkeypatch.setattr(PreparedData, "waveforms", counted)
    for opened, rows, expected in ((data, [2, 3], [2, 3]), (data, [2, 3], []), (data, [3, 2], [3, 2])):
        heard.clear()
        read = RowReader(opened, [front_end], np.array(rows))
        assert heard == expected
        sound = torch.from_numpy(waveforms(data, np.array([2])))
        assert torch.equal(read(np.array([2]), masks=False).features[front_end.key], front_end(sound))
    heard.clear()
    RowReader(PreparedData.open(data.root), [front_end], np.array([2, 3]))
    assert heard == [2, 3]


def test_a_full_disk_is_one_sentence(data: PreparedData, front_end: LogMel) -> None:
    """It names the folder and the way out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DataError, match=facts("20 trainer.cache_features=false")):
            RowReader(PreparedData.open(data.root), [front_end], np.arange(COUNT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_a_front_end_the_sound_itself_comes(data: PreparedData) -> None:
    """Waveforms in [-1, 1] where nothing is cached."""
    rows = RowReader(data, [], np.arange(COUNT))(np.array([5, 0]), masks=False)
    assert rows.features == {}
    assert rows.waveform is not None
    np.testing.assert_allclose(rows.waveform[0].numpy(), _sample(5).waveform / 32768, atol=1e-7)


def test_validation_reads_every_row_once_in_order(reader: RowReader) -> None:
    """Whole batches and the rest, with masks."""
    loader = RowLoader(reader, np.arange(3, 14), 4)
    batches = list(loader)
    assert [len(batch.index) for batch in batches] == [4, 4, 3]
    assert len(loader) == 3
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(3, 14))
    assert all(batch.mask is not None for batch in batches)


@pytest.mark.parametrize("unlabeled", [UNLABELED, UNLABELED[:0]])
def test_processes_share_what_a_single_one_would_read(
    reader: RowReader, unlabeled: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    """Their parts of a step, in the order of their ranks, are its rows: none twice, none left out, masks included."""

    def loader(rank: int, processes: int) -> StepLoader:
        return StepLoader(
            reader,
            LABELED,
            unlabeled,
            batch_size=8,
            labeled_batch_size=2,
            steps_per_epoch=4,
            seed=0,
            masks=True,
            hidden=len(unlabeled) > 0,
            rank=rank,
            processes=processes,
        )

    def found(rows: TrainingRows) -> dict[str, torch.Tensor]:
        of = {"labeled": rows.labeled} | ({} if rows.unlabeled is None else {"unlabeled": rows.unlabeled})
        read = {
            f"{name} {what}": getattr(part, what) for name, part in of.items() for what in ("index", "pixels", "mask")
        }
        return {name: value for name, value in (read | {"hidden": rows.hidden}).items() if value is not None}

    for step in range(9):
        whole, parts = loader(0, 1).rows(step), [loader(rank, 2).rows(step) for rank in range(2)]
        assert {part.step for part in parts} == {step}
        expected, shares = found(whole), [found(part) for part in parts]
        assert set(expected) == set(shares[0]) == set(shares[1]) > {"labeled mask"}
        for name, value in expected.items():
            assert torch.cat([share[name] for share in shares]).equal(value), name
