"""Thresholds chosen on validation's maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures.localizers import Fake, Rows
from tests.fixtures.messages import facts

from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.evaluation.evaluate import score_model
from avsl.evaluation.maps import Maps, compute_maps
from avsl.evaluation.scoring import score_part
from avsl.evaluation.thresholds import choose_presence, choose_thresholds
from avsl.functional import localization as F
from avsl.types import AVBatch, AVOutput


@pytest.fixture(scope="module")
def maps(template: Path) -> Maps:
    """The truth of validation, at a different level in every row."""
    data = PreparedData.open(template / "outputs" / "synthetic" / "prepared")
    rows = data.indices("validation")
    levels = torch.linspace(0.15, 0.9, len(rows))
    confidence = data.box_masks(rows) * levels.numpy()[:, None, None]
    return Maps(rows, [torch.from_numpy(confidence).float()], None, RowReader(data, [], rows))


def test_validation_is_scored_at_the_other_halfs_threshold(maps: Maps) -> None:
    """Each row by itself; the fixed threshold is chosen on all of them."""
    chosen = choose_thresholds(maps)
    assert chosen.cross_fitted
    assert len(torch.unique(chosen.rows)) == 2
    scores = score_part("validation", maps, chosen.fixed, chosen.rows)
    for row, threshold in enumerate(chosen.rows.tolist()):
        truth = maps.reader.truth(maps.rows[row : row + 1])
        mask = F.predict_mask(maps.confidence[row : row + 1], truth, "fixed", threshold)
        assert float(scores.ciou[row]) == float(F.ciou(mask, truth))
    assert scores.figures["ciou"] != score_part("validation", maps, chosen.fixed).figures["ciou"]


def test_an_evaluation_says_how_validation_was_scored(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-fitted by recording; where all rows are of one, at their own threshold. The rows' scores agree with it."""
    confidence = dict(zip(maps.rows.tolist(), maps.confidence, strict=True))

    class Known(torch.nn.Module):
        def forward(self, view: AVBatch) -> AVOutput:
            found = torch.stack([confidence[row] for row in view.index.tolist()])
            return AVOutput((), torch.logit(found, eps=1e-6), found)

    parts = {"validation": maps.rows, "test": maps.rows}
    found = score_model([Known()], maps.reader, parts, batch_size=4)
    validation, test = found.figures["validation"], found.figures["test"]
    assert validation["cross_fitted"] is True
    assert "cross_fitted" not in test
    assert found.validation_ciou is not None
    assert validation["ciou"] == float((found.validation_ciou >= 0.5).double().mean())
    assert validation["ciou"] < test["ciou"]
    monkeypatch.setitem(maps.reader.data.__dict__, "recordings", np.zeros(len(maps.reader.data), np.int64))
    alone = score_model([Known()], maps.reader, parts, batch_size=4).figures
    assert alone["validation"]["cross_fitted"] is False
    assert alone["validation"]["ciou"] == alone["test"]["ciou"]


def test_presence_keeps_all_but_a_twentieth_of_the_sounding_rows(reader: RowReader, parts: dict[str, Rows]) -> None:
    """The highest threshold that 95 % of the sounding samples' peaks reach; silent samples are ignored."""
    silent, generator = parts["test_offscreen"], np.random.default_rng(0)

    def choose(rows: Rows, peaks: list[float]) -> float:
        coming = iter(peaks)
        model = Fake(lambda asked: torch.tensor([next(coming) for _ in asked])[:, None, None].expand(-1, 8, 8))
        return choose_presence(compute_maps([model], reader, rows, 8))

    for n, kept in ((40, 38), (30, 29), (10, 10)):
        rows, peaks = np.resize(parts["test"], n), generator.permutation(np.linspace(0.1, 0.9, n))
        presence = choose(rows, peaks.tolist())
        assert (peaks >= presence - 1e-6).sum() == kept
        assert choose(np.concatenate([rows, silent]), [*peaks.tolist(), *(0.01 for _ in silent)]) == presence
    with pytest.raises(ValueError, match=facts("source")):
        choose(silent, [0.5] * len(silent))
