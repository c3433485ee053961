"""Kept outputs of frozen networks: equal to direct ones, computed once per clip, whoever asks and whoever is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts
from tests.fixtures.shards import SIDE, MakeShards, make_sample, prepare
from torch import Tensor
from torch.nn import functional as F

from avsl.data.loading import RowReader
from avsl.data.prepared.outputs import keep_heard, keep_seen
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import MakeShard, ShardRows, prepare_shards, write_manifest
from avsl.errors import DataError
from avsl.functional.image import normalize
from avsl.types import FrozenTrunk, Outputs

COUNT = 40


class OneShard:
    """All rows in one shard."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        return ShardRows([make_sample(i) for i in range(COUNT)])


class OtherEnd:
    """Shards of which the last one differs from the fixture's."""

    def __call__(self, k: int) -> ShardRows:
        """The rows of shard k."""
        return MakeShards()(k) if k < 2 else ShardRows([make_sample(100 + j) for j in range(4)])


@dataclass
class Trunk:
    """A frozen network that counts the clips which it has computed.

    Attributes:
        clips: numbers of clips, by call.
        most: clips after which the process dies as if killed.
        scale: of its outputs.
    """

    key: str = "a"
    clips: list[int] = field(default_factory=list)
    most: int = 10**9
    scale: float = 1.0

    def frozen(self) -> FrozenTrunk:
        """It as the interface has it."""
        return FrozenTrunk(self.key, self)

    def __call__(self, inputs: Tensor) -> Outputs:
        """Two maps of frames, or a code of sounds."""
        self.clips.append(len(inputs))
        if sum(self.clips) > self.most:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        if inputs.ndim == 2:
            return (self.scale * inputs[:, :5].cumsum(1),)
        ramp = torch.arange(SIDE) / SIDE  # tells a frame from its mirror image
        return self.scale * F.avg_pool2d(inputs * ramp, 2), (inputs * ramp).amax((2, 3))


def _prepare(root: Path, make: MakeShard, shards: int) -> PreparedData:
    settings = {"name": "tiny", "image_size": SIDE, "sample_rate": 16000, "n_samples_audio": 40, "settings": {}}
    manifest, _ = prepare_shards(root, make, shards, classes=["b", "größe"], workers=1, **settings)  # type: ignore[arg-type]
    write_manifest(root, manifest)
    return PreparedData.open(root)


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """Eight rows in two shards, and an empty one; outputs lie in the folder above."""
    prepare(tmp_path / "prepared")
    return PreparedData.open(tmp_path / "prepared")


@pytest.fixture
def one_shard(tmp_path: Path) -> PreparedData:
    """Forty rows in one shard."""
    return _prepare(tmp_path / "prepared", OneShard(), 1)


def _everything(data: PreparedData) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(data), dtype=np.int64)


def test_outputs_are_those_of_frames_their_mirror_images_and_sounds(data: PreparedData) -> None:
    """Within half precision, for rows in any order, repeated and over shards."""
    index = np.array([7, 0, 3, 3, 4, 1])
    frames = normalize(torch.from_numpy(data.frames(index)))
    seen = keep_seen(data, Trunk().frozen(), _everything(data))(index)
    for view, expected in enumerate((Trunk()(frames), Trunk()(frames.flip(3)))):
        for found, direct in zip(seen, expected, strict=True):
            assert found.dtype == torch.float16
            torch.testing.assert_close(found[:, view].float(), direct, rtol=1e-3, atol=1e-3)
    (heard,) = keep_heard(data, Trunk().frozen(), _everything(data))(index)
    (expected_code,) = Trunk()(torch.from_numpy(data.waveforms(index)))
    torch.testing.assert_close(heard.float(), expected_code, rtol=1e-3, atol=1e-3)


def test_a_second_training_and_another_order_of_rows_compute_nothing(one_shard: PreparedData) -> None:
    """But one clip, which shows the outputs' shapes; no more than a few clips are in memory at once."""
    first, second = Trunk(), Trunk()
    keep_heard(one_shard, first.frozen(), _everything(one_shard))
    assert sum(first.clips) == 1 + COUNT
    keep_heard(PreparedData.open(one_shard.root), second.frozen(), np.array([9, 2]))
    assert sum(second.clips) == 1
    images = Trunk()
    keep_seen(one_shard, images.frozen(), _everything(one_shard))
    assert max(images.clips) <= 16


def test_after_a_kill_only_what_is_missing_is_computed(one_shard: PreparedData) -> None:
    """A process that is killed, and a torn last clip, cost a few clips; the outputs are the same."""
    script = (
        "import numpy as np\nfrom tests.data.prepared.test_outputs import Trunk\n"
        "from avsl.data.prepared.outputs import keep_heard\nfrom avsl.data.prepared.reader import PreparedData\n"
        f"keep_heard(PreparedData.open({str(one_shard.root)!r}), Trunk(most=36).frozen(), np.arange({COUNT}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -9
    (part,) = (one_shard.root.parent / "frozen").glob("*.part")
    with part.open("ab") as file:
        file.write(b"torn")
    resumed = Trunk()
    kept = keep_heard(one_shard, resumed.frozen(), _everything(one_shard))
    assert sum(resumed.clips) == 1 + COUNT - 32
    (expected,) = Trunk()(torch.from_numpy(one_shard.waveforms(_everything(one_shard))))
    torch.testing.assert_close(kept(_everything(one_shard))[0].float(), expected, rtol=1e-3, atol=1e-3)
    assert [path.suffix for path in part.parent.iterdir()] == [".f16"]


def test_other_weights_and_other_clips_are_computed(data: PreparedData) -> None:
    """By key and by shard: a set of which one shard differs shares the others."""
    keep_heard(data, Trunk("a").frozen(), _everything(data))
    other = Trunk("b")
    keep_heard(data, other.frozen(), _everything(data))
    assert sum(other.clips) == 1 + len(data)
    beside = _prepare(data.root.parent / "beside", OtherEnd(), 3)
    again = Trunk("a")
    kept = keep_heard(beside, again.frozen(), _everything(beside))
    assert sum(again.clips) == 1 + 4
    (expected,) = Trunk()(torch.from_numpy(beside.waveforms(_everything(beside))))
    torch.testing.assert_close(kept(_everything(beside))[0].float(), expected, rtol=1e-3, atol=1e-3)


def test_shards_that_nobody_needs_are_not_computed(data: PreparedData) -> None:
    """Rows of them are refused when they are read."""
    trunk = Trunk()
    kept = keep_heard(data, trunk.frozen(), np.array([1]))
    assert sum(trunk.clips) == 1 + 4
    with pytest.raises(IndexError, match=facts("row 5")):
        kept(np.array([0, 5]))


def test_outputs_beyond_half_precision_are_refused(data: PreparedData) -> None:
    """With the way out."""
    with pytest.raises(DataError, match=facts("half precision", "model.cache_frozen")):
        keep_seen(data, Trunk(scale=1e6).frozen(), _everything(data))


@pytest.mark.parametrize("keep", [keep_seen, keep_heard])
def test_a_full_disk_is_named(keep: Callable[..., object], data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder and the way out."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avsl.data.prepared.outputs.os.fsync", full)
    with pytest.raises(DataError, match=facts("frozen", "No space left", "model.cache_frozen")):
        keep(data, Trunk().frozen(), _everything(data))


def test_a_reader_gives_them_instead_of_pixels_and_waveforms(data: PreparedData) -> None:
    """Two students with the same trunk share them; pixels stay where no image trunk is frozen."""
    trunks = [Trunk().frozen(), Trunk().frozen()]
    rows = RowReader(data, [], _everything(data), image_trunks=trunks, audio_trunks=trunks)(np.array([2]), masks=False)
    assert (rows.pixels.numel(), rows.waveform, list(rows.seen), list(rows.heard)) == (0, None, ["a"], ["a"])
    rows = RowReader(data, [], _everything(data), audio_trunks=trunks)(np.array([2]), masks=False)
    assert rows.pixels.shape == (1, SIDE, SIDE, 3)
