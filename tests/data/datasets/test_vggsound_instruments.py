"""VGGSound-Instruments: masks, alone and mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

Prepare = Callable[..., PreparedData]
Tones = Callable[[PreparedData, int], set[int]]
AddRow = Callable[[Path, str, int], None]
AddMask = Callable[[Path, int], None]


def test_instruments_have_masks_alone_and_mixed(
    tmp_path: Path, prepare: Prepare, add_row: AddRow, add_mask: AddMask, tones: Tones
) -> None:
    """A mask is a picture or an array; a published pickle is not read."""
    root = tmp_path / "instruments"
    for k in range(3):
        add_row(root, f"sample{k}", 4 * k)
    add_mask(root / "masks" / "sample0.png", 30)
    add_mask(root / "masks" / "sample1.npy", 15)
    (root / "masks" / "sample2.pkl").write_bytes(b"\x80\x04N.")
    (root / "vgginstruments_test.csv").write_text("sample0,banjo\nsample1,flute\nsample2,cello\n")
    (root / "vgginstruments_multi_test.csv").write_text("sample0,banjo,sample1,flute\n")
    data = prepare("vggsound_instruments", root, max_broken=0.3)
    assert data.sample_ids == ["sample0", "sample1", "sample0+sample1/0", "sample0+sample1/1"]
    assert data.object_masks(np.arange(4)).mean(axis=(1, 2)).tolist() == [0.5, 0.25, 0.5, 0.25]
    assert [tones(data, row) for row in (0, 2)] == [{200}, {200, 400}]
    assert data.manifest.expected == {"test": 3, "test_duet": 2}
    assert data.mixed(np.arange(4)).tolist() == [False, False, True, True]
    assert "sample2: no mask (.png, .npy)" in (tmp_path / "out" / "quarantine.csv").read_text()
    (root / "vgginstruments_multi_test.csv").write_text("sample0,banjo,sample9,flute\n")
    with pytest.raises(DataError, match=facts("1 'sample9' vgginstruments_test.csv")):
        prepare("vggsound_instruments", root)


def test_published_frames(published_root: Path, read_index: Callable[..., Index]) -> None:
    """446 frames of 36 classes and as many pairs; with a share for testing no mixture holds another frame."""
    whole = read_index("vggsound_instruments", published_root).entries
    assert Counter(entry.part for entry in whole) == {"test": 446, "test_duet": 2 * 446}
    assert len({entry.label for entry in whole}) == 36
    instruments = read_index("vggsound_instruments", published_root, test_share=0.5)
    held = {entry.sample_id for entry in instruments.entries if entry.part == "test"}
    duets = [entry for entry in instruments.entries if entry.part == "test_duet"]
    assert 0 < len(duets) == 2 * 446 - instruments.left_out
    assert {name for entry in duets for name in entry.sample_id.partition("/")[0].split("+")} <= held
