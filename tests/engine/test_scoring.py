"""Scores of models whose answer is known: perfect, deaf, blind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsl.data.loading import RowReader, Rows
from avsl.data.shards import PreparedData
from avsl.engine.scoring import break_down, compute_maps, score_detection, score_model
from avsl.functional import localization as F
from avsl.metrics import ExtendedScore
from avsl.models import ObjectPrior, ObjectPriorConfig
from avsl.types import AVBatch, AVOutput

_Rows = NDArray[np.int64]


class _Fake(nn.Module):
    """A localiser whose confidence is a function of the row alone; it remembers which sounds it was given."""

    def __init__(self, confidence: Callable[[_Rows], Tensor]) -> None:
        super().__init__()
        self.confidence = confidence
        self.heard: list[tuple[int, Tensor]] = []

    def forward(self, view: AVBatch) -> AVOutput:
        """Logits; the embeddings are of no interest."""
        assert view.waveform is not None
        self.heard += zip(view.index.tolist(), view.waveform, strict=True)
        maps = self.confidence(view.index.numpy()).clamp(1e-6, 1 - 1e-6)
        return AVOutput((), torch.logit(maps), torch.zeros(len(view), 1, 1, 1))


@pytest.fixture(scope="module")
def data(template: Path) -> PreparedData:
    """Six test rows, three silent ones and two frames of two and three sounds."""
    return PreparedData.open(template / "outputs" / "synthetic" / "prepared")


@pytest.fixture(scope="module")
def parts(data: PreparedData) -> dict[str, _Rows]:
    """Row numbers by part."""
    return {part: data.indices(part) for part in ("validation", "test", "test_offscreen", "test_swap")}


@pytest.fixture(scope="module")
def reader(data: PreparedData) -> RowReader:
    """Reads waveforms, as nothing is cached."""
    return RowReader(data, [], np.arange(len(data), dtype=np.int64))


@pytest.fixture
def perfect(data: PreparedData) -> _Fake:
    """Says the truth."""
    return _Fake(lambda rows: torch.from_numpy(data.box_masks(rows)).float())


@pytest.fixture
def softened(perfect: _Fake) -> _Fake:
    """Says the truth, never surely."""
    return _Fake(lambda rows: 0.3 + 0.4 * perfect.confidence(rows))


@pytest.fixture
def whole() -> _Fake:
    """Says that everything sounds, always."""
    return _Fake(lambda rows: torch.ones(len(rows), 32, 32))


@pytest.fixture
def noise() -> _Fake:
    """Says something else about every row."""
    return _Fake(lambda rows: torch.stack([torch.rand(8, 8, generator=_generator(row)) for row in rows.tolist()]))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_perfect_model_has_perfect_scores(perfect: _Fake, reader: RowReader, parts: dict[str, _Rows]) -> None:
    """The truth scores 1 everywhere and fires at nothing; where a member is alone, no member is listed."""
    figures = score_model([perfect], reader, parts, batch_size=4).figures
    for part in ("validation", "test", "test_swap"):
        scores = figures[part]
        assert scores["n"] == len(parts[part])
        assert scores["n_silent"] == 0
        assert [scores[key] for key in ("ciou", "ciou_70", "auc", "mean_ciou")] == [1, 1, 1, 1]
        assert "false_positive_rate" not in scores
    assert (figures["test_swap"]["iiou"], figures["test_swap"]["iauc"]) == (1, 1)
    assert "iiou" not in figures["test"]
    offscreen = figures["test_offscreen"]
    assert offscreen == offscreen | {"n": 0, "n_silent": 3, "false_positive_rate": 0, "max_f1": 1}
    for rates in figures["test"]["by_size"], figures["test"]["by_class"]:
        assert sum(kind["n"] for kind in rates.values()) == figures["test"]["n"]
        assert {kind["ciou"] for kind in rates.values()} == {1}
    assert not any(key.startswith("member_") for key in figures)


def test_the_whole_image_equals_its_baseline(whole: _Fake, reader: RowReader, parts: dict[str, _Rows]) -> None:
    """A model that learned nothing is not told from the baseline, and fires at every silent row."""
    figures = score_model([whole], reader, parts, batch_size=4).figures
    baseline = figures["baselines"]["whole_image"]
    assert baseline
    assert {key: figures["test"][key] for key in baseline} == baseline
    assert figures["test"]["ciou_shuffled"] == baseline["ciou"]
    assert figures["test_offscreen"]["false_positive_rate"] == 1
    ceiling = figures["baselines"]["perfect_ranking"]
    assert ceiling["ciou_median"] >= figures["test"]["ciou_median"]
    assert set(ceiling) == {"ciou_median", "ciou_70_median", "auc_median", "mean_ciou_median"}


@pytest.mark.parametrize(("n", "batch_size"), [(2, 1), (3, 2), (6, 4), (6, 100)])
def test_no_frame_is_shuffled_to_its_own_sound(
    n: int, batch_size: int, noise: _Fake, reader: RowReader, data: PreparedData
) -> None:
    """Each frame is seen with its own sound and with another's, and each sound is used once in the shuffle."""
    rows = data.indices("test")[:n]
    compute_maps([noise], reader, rows, batch_size, shuffle=True)
    own, other = [], []
    seen: set[int] = set()
    for start in range(0, n, batch_size):
        size = min(batch_size, n - start)
        calls, noise.heard = noise.heard[: 2 * size], noise.heard[2 * size :]
        own += calls[:size]
        other += calls[size:]
    sounds = torch.from_numpy(data.waveforms(rows))
    for pairs, same in ((own, True), (other, False)):
        assert [index for index, _ in pairs] == rows.tolist()
        given = [int((sounds == heard).all(1).nonzero()) for _, heard in pairs]
        assert sorted(given) == list(range(n))
        assert [k == given[k] for k in range(n)] == [same] * n
        seen |= set(given)


def test_maps_do_not_depend_on_the_batch_size(noise: _Fake, reader: RowReader, parts: dict[str, _Rows]) -> None:
    """One at a time or all together: the same maps, shuffled ones too."""
    one, many = (compute_maps([noise], reader, parts["test_swap"], size, shuffle=True) for size in (1, 100))
    assert torch.equal(one.confidence, many.confidence)
    assert one.shuffled is not None
    assert many.shuffled is not None
    assert torch.equal(one.shuffled[0], many.shuffled[0])
    assert torch.equal(one.truth, many.truth)


class _Inverted(RowReader):
    """Tells the opposite of the truth about some rows."""

    def __init__(self, data: PreparedData, wrong: _Rows) -> None:
        super().__init__(data, [], np.arange(len(data), dtype=np.int64))
        self.wrong = set(wrong.tolist())

    def __call__(self, index: _Rows, *, masks: bool) -> Rows:
        """Rows with their masks inverted where wrong."""
        rows = super().__call__(index, masks=masks)
        if rows.mask is not None:
            for k, row in enumerate(index.tolist()):
                if row in self.wrong:
                    rows.mask[k] = 1 - rows.mask[k]
        return rows


def test_the_threshold_comes_from_validation(
    noise: _Fake, softened: _Fake, reader: RowReader, data: PreparedData, parts: dict[str, _Rows]
) -> None:
    """Other truth in test leaves the threshold and validation as they were; in validation it moves the threshold."""
    usual = score_model([softened, noise], reader, parts, batch_size=100).figures
    wrong_test = score_model([softened, noise], _Inverted(data, parts["test"]), parts, batch_size=100).figures
    assert wrong_test["test"] != usual["test"]
    for key in ("threshold", "validation", "test_swap"):
        assert wrong_test[key] == usual[key]
    for figures in (wrong_test, usual):  # the rows of `test` are among the detections
        del figures["test_offscreen"]["ap"], figures["test_offscreen"]["max_f1"]
    assert wrong_test["test_offscreen"] == usual["test_offscreen"]
    for member in ("member_0", "member_1"):
        assert wrong_test[member]["threshold"] == usual[member]["threshold"]
    wrong_validation = score_model([softened], _Inverted(data, parts["validation"]), parts, batch_size=100).figures
    right = score_model([softened], reader, parts, batch_size=100).figures
    assert 0.3 < right["threshold"] < 0.7
    assert wrong_validation["threshold"] <= 0.3


def test_silent_rows_count_as_false_positives_alone(noise: _Fake, reader: RowReader, parts: dict[str, _Rows]) -> None:
    """Rows with and without a source, scored together, give the figures of each kind alone."""
    mixed = np.concatenate([parts["test_offscreen"], parts["test"]])
    apart = score_model([noise], reader, parts, batch_size=4).figures
    together = score_model([noise], reader, {"validation": parts["validation"], "test": mixed}, batch_size=4).figures
    assert (together["test"]["n"], together["test"]["n_silent"]) == (6, 3)
    assert together["test"]["ciou"] == apart["test"]["ciou"]
    assert together["test"]["mean_ciou_oracle"] == pytest.approx(apart["test"]["mean_ciou_oracle"])
    assert together["test"]["false_positive_rate"] == apart["test_offscreen"]["false_positive_rate"]
    assert together["baselines"]["centred_disc"] == pytest.approx(apart["baselines"]["centred_disc"])


def test_silent_rows_are_negatives_of_the_test_rows(
    noise: _Fake, perfect: _Fake, reader: RowReader, data: PreparedData, parts: dict[str, _Rows]
) -> None:
    """AP and F1 over `test` and `test_offscreen` together; surest where nothing sounds, a third is wrong at best."""
    sure = _Fake(
        lambda rows: perfect.confidence(rows) + torch.from_numpy(~data.box_masks(rows).any((1, 2), keepdims=True))
    )
    figures = score_model([sure], reader, parts, batch_size=4).figures
    assert figures["test"]["ciou"] == 1
    assert figures["test_offscreen"]["max_f1"] == pytest.approx(2 * (6 / 9) / (6 / 9 + 1))
    assert figures["test_offscreen"]["ap"] < 6 / 9
    computed = [compute_maps([noise], reader, parts[part], 4) for part in ("test", "test_offscreen")]
    metric = ExtendedScore("fixed", 0.5)
    for maps in computed:
        metric.update(maps.confidence, maps.truth)
    expected = metric.compute()
    found = score_detection(computed, 0.5)
    assert found == {"ap": expected["ap"], "max_f1": expected["max_f1"]}
    assert found["max_f1"] < score_model([perfect], reader, parts, 4).figures["test_offscreen"]["max_f1"]
    without = {part: rows for part, rows in parts.items() if part != "test_offscreen"}
    assert "test_offscreen" not in score_model([noise], reader, without, batch_size=4).figures


def test_breakdowns_are_the_rates_of_their_rows(noise: _Fake, data: PreparedData, reader: RowReader) -> None:
    """CIoU by size and by class, over sounding rows alone, as a loop over the rows finds it."""
    rows = np.concatenate([data.indices("test"), data.indices("test_offscreen"), data.indices("test_small")])
    maps = compute_maps([noise], reader, rows, 4)
    labels = [str(data.labels[row]) for row in rows]
    threshold = 0.3
    found = break_down(maps, threshold, labels)
    scores = F.ciou(F.predict_mask(maps.confidence, maps.truth, "fixed", threshold), maps.truth).tolist()
    bounds = {"small": 32**2, "medium": 96**2, "large": 144**2, "huge": 224**2 + 1}
    by_size: dict[str, list[bool]] = {}
    by_class: dict[str, list[bool]] = {}
    for score, mask, label in zip(scores, maps.truth, labels, strict=True):
        if mask.any():
            area = float(mask.mean()) * 224**2
            by_size.setdefault(next(name for name, bound in bounds.items() if area < bound), []).append(score >= 0.5)
            by_class.setdefault(label, []).append(score >= 0.5)
    assert len(by_size) > 1
    for kinds, rates in ((by_size, found["by_size"]), (by_class, found["by_class"])):
        assert rates == {name: {"n": len(rows), "ciou": sum(rows) / len(rows)} for name, rows in kinds.items()}
    assert list(found["by_size"]) == [name for name in F.AREA_BUCKETS if name in by_size]
    assert list(found["by_class"]) == sorted(by_class)


def test_a_deaf_model_fails_where_one_frame_has_several_sounds(
    data: PreparedData, reader: RowReader, parts: dict[str, _Rows]
) -> None:
    """Pointing at one of a frame's objects whatever sounds is right for one of its sounds: half a CIoU, no IIoU."""
    swap = parts["test_swap"]
    groups = data.group_ids[swap]
    first = {group: swap[groups == group][0] for group in np.unique(groups)}
    deaf = _Fake(
        lambda rows: torch.from_numpy(
            data.box_masks(np.array([first.get(data.group_ids[row], row) for row in rows], np.int64))
        ).float()
    )
    figures = score_model([deaf], reader, parts, batch_size=4).figures["test_swap"]
    assert len(first) == 2
    assert 2 / 5 <= figures["ciou"] < 1
    assert figures["iiou"] == 0


def test_each_member_is_scored_alone(perfect: _Fake, whole: _Fake, reader: RowReader, parts: dict[str, _Rows]) -> None:
    """A pair's members stand beside it with thresholds of their own; the pair's map is their mean."""
    figures = score_model([perfect, whole], reader, parts, batch_size=4).figures
    assert figures["member_0"]["test"]["ciou"] == figures["member_0"]["validation"]["ciou"] == 1
    assert figures["member_1"]["test"]["ciou"] == figures["baselines"]["whole_image"]["ciou"]
    # The mean is 1 where both say so and 0.5 elsewhere.
    assert figures["threshold"] > 0.5
    assert figures["test"]["ciou"] == 1


def test_the_table_has_a_line_for_each_test_row(
    perfect: _Fake, reader: RowReader, data: PreparedData, parts: dict[str, _Rows]
) -> None:
    """Every test sample with its area and cIoU; a silent one has none; validation is left out."""
    table = score_model([perfect], reader, parts, batch_size=4).table
    lines = list(csv.DictReader(table.splitlines()))
    rows = np.concatenate([parts[part] for part in ("test", "test_offscreen", "test_swap")])
    assert [line["sample_id"] for line in lines] == [data.sample_ids[row] for row in rows]
    for line, mask in zip(lines, data.box_masks(rows), strict=True):
        assert float(line["area"]) == pytest.approx(mask.mean(), abs=1e-4)
        assert line["ciou"] == ("1.0000" if mask.any() else "")


class _Sight(ObjectPrior):
    """Sees an object wherever a frame is bright; needs no weights."""

    def __init__(self, alpha: float) -> None:
        nn.Module.__init__(self)
        self.config = ObjectPriorConfig(weights="none", alpha=alpha)

    def forward(self, frames: Tensor) -> Tensor:
        """The mean of the channels."""
        return frames.mean(1)


def test_an_object_prior_is_scored_beside_the_model(
    softened: _Fake, reader: RowReader, parts: dict[str, _Rows]
) -> None:
    """What the model scores alone stays as it is; with all of the model's share the prior adds nothing to a truth."""
    alone = score_model([softened], reader, parts, batch_size=4)
    both = score_model([softened], reader, parts, batch_size=4, prior=_Sight(1.0))
    assert alone.figures["ogl"] is None
    assert {**both.figures, "ogl": None} == alone.figures
    assert both.table == alone.table
    ogl = both.figures["ogl"]
    assert (ogl["alpha"], ogl["backbone"]) == (1.0, "resnet18")
    assert set(ogl) == {"alpha", "backbone", "weights", "threshold", *parts}
    for part in ("validation", "test", "test_swap"):
        assert (ogl[part]["n"], ogl[part]["ciou"]) == (len(parts[part]), 1)


def test_an_object_prior_alone_is_deaf(
    perfect: _Fake, noise: _Fake, reader: RowReader, parts: dict[str, _Rows]
) -> None:
    """Without any share of the model's, models and sounds make no difference and something is found in every frame."""

    def scored(model: _Fake, alpha: float, batch_size: int = 4) -> dict[str, Any]:
        found: dict[str, Any] = score_model([model], reader, parts, batch_size, _Sight(alpha)).figures["ogl"]
        return found

    deaf = scored(noise, 0.0)
    assert scored(perfect, 0.0) == deaf
    assert deaf["test"]["ciou_shuffled"] == deaf["test"]["ciou"]
    assert deaf["test_offscreen"]["false_positive_rate"] == 1
    assert scored(noise, 0.4, 1) == scored(noise, 0.4, 100) != deaf | {"alpha": 0.4}


def test_a_guided_threshold_comes_from_validation(
    noise: _Fake, reader: RowReader, data: PreparedData, parts: dict[str, _Rows]
) -> None:
    """With a prior too, other truth in test leaves the threshold as it was, and in validation it moves it."""
    usual, wrong_test, wrong_validation = (
        score_model([noise], r, parts, batch_size=100, prior=_Sight(0.4)).figures["ogl"]
        for r in (reader, _Inverted(data, parts["test"]), _Inverted(data, parts["validation"]))
    )
    assert wrong_test["test"] != usual["test"]
    assert (wrong_test["threshold"], wrong_test["validation"]) == (usual["threshold"], usual["validation"])
    assert wrong_validation["threshold"] < usual["threshold"]
