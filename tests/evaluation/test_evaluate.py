"""Evaluations of models whose answer is known: perfect, deaf, blind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.localizers import Fake, Inverted, Rows, Sight
from tests.fixtures.messages import says
from torch import Tensor

from avsl.data.datasets import DATASETS, make_prepared
from avsl.data.loading import RowReader
from avsl.data.prepared.format import Manifest, Sample, ShardEntry
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import write_manifest, write_shard
from avsl.evaluation.evaluate import caveats, score_model
from avsl.evaluation.maps import compute_maps
from avsl.evaluation.scoring import score_detection
from avsl.files import file_hash
from avsl.functional import detection as D
from avsl.functional import localization as F
from avsl.functional import segmentation as S


def test_a_perfect_model_has_perfect_scores(perfect: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
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


def test_the_whole_image_equals_its_baseline(whole: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
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


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Nested figures under their keys joined by ``/``."""
    flat: dict[str, Any] = {}
    for key, value in figures.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        flat |= {key: value} if inner is None else {f"{key}/{name}": number for name, number in inner.items()}
    return flat


def test_figures_do_not_depend_on_the_rows_scored_at_a_time(
    noise: Fake, softened: Fake, reader: RowReader, parts: dict[str, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one or all in one pass: the same figures and table, members and object prior included."""
    rows = parts | {"test": np.concatenate([parts["test"], parts["test_offscreen"]])}
    found = []
    for size in (1, 2, 1000):
        monkeypatch.setattr("avsl.evaluation.maps.CHUNK", size)
        found.append(score_model([softened, noise], reader, rows, 4, Sight(0.5)))
    one, two, once = (_flat(evaluation.figures) for evaluation in found)
    for figures in (one, two):
        assert list(figures) == list(once)
        numbers = [key for key, value in once.items() if not isinstance(value, str | list)]
        assert [figures[key] for key in numbers] == pytest.approx([once[key] for key in numbers], rel=0, abs=1e-9)
    assert found[0].table == found[1].table == found[2].table


def test_few_rows_are_ever_enlarged_together(noise: Fake, data: PreparedData, parts: dict[str, Rows]) -> None:
    """Whatever the number of rows, their truth is read a few rows at a time: memory does not grow with it."""

    class Counting(RowReader):
        most = 0

        def truth(self, index: Rows) -> Tensor:
            self.most = max(self.most, len(index))
            return super().truth(index)

    reader = Counting(data, [], np.arange(len(data), dtype=np.int64))
    rows = {part: np.tile(found, 8) for part, found in parts.items()}
    score_model([noise], reader, rows, 100, Sight(0.5))
    assert 0 < reader.most <= 16 < len(rows["test_offscreen"])


def test_the_threshold_comes_from_validation(
    noise: Fake, softened: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """Other truth in test leaves the threshold and validation as they were; in validation it moves the threshold."""
    usual = score_model([softened, noise], reader, parts, batch_size=100).figures
    wrong_test = score_model([softened, noise], Inverted(data, parts["test"]), parts, batch_size=100).figures
    assert wrong_test["test"] != usual["test"]
    for key in ("threshold", "validation", "test_swap"):
        assert wrong_test[key] == usual[key]
    for figures in (wrong_test, usual):  # the rows of `test` are among the detections
        del figures["test_offscreen"]["ap"], figures["test_offscreen"]["max_f1"]
    assert wrong_test["test_offscreen"] == usual["test_offscreen"]
    for member in ("member_0", "member_1"):
        assert wrong_test[member]["threshold"] == usual[member]["threshold"]
    wrong_validation = score_model([softened], Inverted(data, parts["validation"]), parts, batch_size=100).figures
    right = score_model([softened], reader, parts, batch_size=100).figures
    assert 0.3 < right["threshold"] < 0.7
    assert wrong_validation["threshold"] <= 0.3


def test_silent_rows_count_as_false_positives_alone(noise: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """Rows with and without a source, scored together, give the figures of each kind alone."""
    mixed = np.concatenate([parts["test_offscreen"], parts["test"]])
    apart = score_model([noise], reader, parts, batch_size=4).figures
    together = score_model([noise], reader, {"validation": parts["validation"], "test": mixed}, batch_size=4).figures
    assert (together["test"]["n"], together["test"]["n_silent"]) == (6, 3)
    assert together["test"]["ciou"] == apart["test"]["ciou"]
    assert together["test"]["mean_ciou_oracle"] == pytest.approx(apart["test"]["mean_ciou_oracle"])
    assert together["test"]["false_positive_rate"] == apart["test_offscreen"]["false_positive_rate"]
    assert together["baselines"]["centered_disc"] == pytest.approx(apart["baselines"]["centered_disc"])
    detected = {name: apart["test_offscreen"][name] for name in ("ap", "max_f1")}
    assert {name: together["test"][name] for name in detected} == detected
    assert "ap" not in apart["test"]


def test_silent_rows_are_negatives_of_the_test_rows(
    noise: Fake, perfect: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """AP and F1 over `test` and `test_offscreen` together; surest where nothing sounds, a third is wrong at best."""
    sure = Fake(
        lambda rows: perfect.confidence(rows) + torch.from_numpy(~data.box_masks(rows).any((1, 2), keepdims=True))
    )
    figures = score_model([sure], reader, parts, batch_size=4).figures
    assert figures["test"]["ciou"] == 1
    assert figures["test_offscreen"]["max_f1"] == pytest.approx(2 * (6 / 9) / (6 / 9 + 1))
    assert figures["test_offscreen"]["ap"] < 6 / 9
    computed = [compute_maps([noise], reader, parts[part], 4) for part in ("test", "test_offscreen")]
    confidence = torch.cat([maps.confidence for maps in computed])
    truth = torch.cat([reader.truth(maps.rows) for maps in computed])
    sureness = D.top_quarter_mean(F.resize_as(confidence, (truth.shape[-2], truth.shape[-1]), "fixed"))
    ciou = F.ciou(F.predict_mask(confidence, truth, "fixed", 0.5), truth)
    found = score_detection(computed, 0.5)
    assert found == {"ap": D.average_precision(sureness, ciou), "max_f1": D.max_f1(sureness, ciou)}
    assert found["max_f1"] < score_model([perfect], reader, parts, 4).figures["test_offscreen"]["max_f1"]
    without = {part: rows for part, rows in parts.items() if part != "test_offscreen"}
    assert "test_offscreen" not in score_model([noise], reader, without, batch_size=4).figures


def test_a_deaf_model_fails_where_one_frame_has_several_sounds(
    data: PreparedData, reader: RowReader, parts: dict[str, Rows]
) -> None:
    """Pointing at one of a frame's objects whatever sounds is right for one of its sounds: half a CIoU, no IIoU."""
    swap = parts["test_swap"]
    groups = data.group_ids[swap]
    first = {group: swap[groups == group][0] for group in np.unique(groups)}
    deaf = Fake(
        lambda rows: torch.from_numpy(
            data.box_masks(np.array([first.get(data.group_ids[row], row) for row in rows], np.int64))
        ).float()
    )
    figures = score_model([deaf], reader, parts, batch_size=4).figures["test_swap"]
    assert len(first) == 2
    assert 2 / 5 <= figures["ciou"] < 1
    assert figures["iiou"] == 0


@pytest.fixture
def masked(tmp_path: Path) -> PreparedData:
    """Six frames of 32 px whose annotation is an exact mask, a diagonal half of a box, the last of them silent.

    The published list names ten of them; a seventh row, for validation, has a box.
    """
    rng = np.random.default_rng(0)
    half = np.tri(16, dtype=bool)
    samples = []
    for k in range(7):
        mask = np.zeros((32, 32), bool)
        mask[k : k + 16, 2 * k : 2 * k + 16] = half & (k != 5)
        frame, sound = rng.integers(0, 255, (32, 32, 3), np.uint8), rng.integers(-9, 9, 400, np.int16)
        boxes = np.array([[0, 0, 0.5, 0.5]], np.float32) if k == 6 else None
        part = "validation" if k == 6 else "test"
        samples.append(Sample(f"s{k}", f"s{k}", f"s{k}", part, "dog", frame, sound, boxes, None if k == 6 else mask))
    write_shard(tmp_path / "shard-00000.arrow", samples)
    path = tmp_path / "shard-00000.arrow"
    entry = ShardEntry(file=path.name, rows=7, bytes=path.stat().st_size, sha256=file_hash(path))
    sizes = {"image_size": 32, "sample_rate": 16000, "n_samples_audio": 400}
    described = {"name": "masked", "counts": {"validation": 1, "test": 6}, "expected": {"validation": 1, "test": 10}}
    write_manifest(
        tmp_path,
        Manifest(**sizes, **described, classes=["dog"], settings={}, shards=[entry], content_hash=entry.sha256),
    )
    return PreparedData.open(tmp_path)


def test_exact_masks_are_the_truth(masked: PreparedData) -> None:
    """Where the set has masks alone, they are scored: a box around one is no match; silent frames count too."""
    reader = RowReader(masked, [], np.arange(7))
    test = np.arange(6)
    exact = np.concatenate([masked.object_masks(test), masked.box_masks(np.array([6]))])

    def boxed(row: int) -> NDArray[np.bool_]:
        mask = exact[row]
        return np.outer(mask.any(1), mask.any(0))

    def scored(say: Callable[[int], NDArray[np.bool_]]) -> dict[str, Any]:
        model = Fake(lambda rows: torch.from_numpy(np.stack([say(row) for row in rows.tolist()])).float())
        figures = score_model([model], reader, {"validation": np.array([6]), "test": test}, 4).figures
        assert set(figures["validation"]).isdisjoint({"n_exact", "miou", "fscore", "pixel_ap"})
        tested: dict[str, Any] = figures["test"]
        return tested | {"whole": figures["baselines"]["whole_image"]}

    right, around = scored(lambda row: exact[row]), scored(boxed)
    assert (right["n"], right["n_silent"], right["n_listed"], right["n_exact"]) == (5, 1, 10, 6)
    assert [right[name] for name in ("ciou", "mean_ciou", "pixel_ap", "max_f1")] == [1, 1, 1, 1]
    assert [right["miou"], right["fscore"]] == pytest.approx([1, 1])
    share = exact[0].sum() / 256
    assert around["mean_ciou"] == pytest.approx(share)
    assert right["whole"]["mean_ciou"] == pytest.approx(exact[0].mean())
    said = torch.from_numpy(np.stack([boxed(row) for row in range(6)])).float()
    confidence = F.resize_as(said.clamp(1e-6, 1 - 1e-6), (32, 32), "fixed")
    truth = torch.from_numpy(exact[:6])
    summary = S.summarize_avs(S.avs_iou(confidence, truth), S.avs_f_scores(confidence, truth))
    expected = {name: value.item() for name, value in summary.items()}
    assert {name: around[name] for name in expected} == pytest.approx(expected)
    assert around["miou"] == pytest.approx((5 * share + 1) / 6)


def test_a_real_layout_has_every_breakdown(tmp_path: Path) -> None:
    """VGG-SS with heard and unheard classes, silent pairs and a missing clip: by size and class, n of N, AP and F1."""
    root = tmp_path / "vggss"
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    sides = {f"c{k}": side for k, side in enumerate((0.1, 0.3, 0.5, 0.9, 0.3, 0.5, 0.6))}
    rows = [
        {"file": name, "class": "dog" if k % 2 else "cat", "bbox": [[0, 0, side, side]]}
        for k, (name, side) in enumerate(sides.items())
    ]
    (root / "vggss.json").write_text(json.dumps(rows))
    for k, name in enumerate(sides):
        if name != "c4":
            Image.fromarray(np.full((48, 48, 3), 30 * k, np.uint8)).save(root / "frames" / f"{name}.png")
            soundfile.write(root / "audio" / f"{name}.flac", np.full(8000, 0.01 * k + 0.01), 16000)
    (root / "test.csv").write_text("\n".join(["c0", "c1", "c2", "c3", "c4"]))
    (root / "unheard.csv").write_text("c6\n")
    (root / "silent.csv").write_text("video,audio,label\nc1,c3,non-sounding\nc0,c0,dog\n")
    _, settings = DATASETS["vggss"]
    lists = {"test_list": "test.csv", "unheard_list": "unheard.csv", "silent_list": "silent.csv"}
    sizes = {"image_size": 32, "duration_s": 0.25, "max_broken": 0.2, "validation_share": 0.99}
    make_prepared("vggss", settings.read({"root": str(root)} | lists | sizes, "data.vggss"), tmp_path / "out", 1)
    data = PreparedData.open(tmp_path / "out")
    names = ("validation", "test", "test_unheard", "test_offscreen")
    truth = Fake(lambda index: torch.from_numpy(data.truth_masks(index)).float())
    reader = RowReader(data, [], np.arange(len(data)))
    figures = score_model([truth], reader, {part: data.indices(part) for part in names}, batch_size=3).figures
    assert [(figures[part]["n"], figures[part]["n_listed"]) for part in names] == [(1, 1), (4, 5), (1, 1), (0, 1)]
    test = figures["test"]
    assert {name: kind["n"] for name, kind in test["by_size"].items()} == {
        "small": 1,
        "medium": 1,
        "large": 1,
        "huge": 1,
    }
    assert test["by_class"] == {"cat": {"n": 2, "ciou": 1}, "dog": {"n": 2, "ciou": 1}}
    assert figures["test_unheard"]["ciou"] == 1
    assert figures["test_offscreen"]["max_f1"] == 1
    assert {"iiou", "p50", "miou", "pixel_ap", "n_exact"}.isdisjoint(test)


def test_a_set_that_nobody_listed_is_whole(perfect: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """Generated rows are all there; each test part but `test_offscreen` has its baselines."""
    figures = score_model([perfect], reader, parts, batch_size=4).figures
    assert {part: figures[part]["n_listed"] for part in parts} == {part: len(rows) for part, rows in parts.items()}
    assert set(figures["test_swap"]["baselines"]) == set(figures["baselines"])
    assert "baselines" not in figures["test_offscreen"]


def test_each_member_is_scored_alone(perfect: Fake, whole: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """A pair's members are scored beside it at their own thresholds; the pair's map is their mean."""
    figures = score_model([perfect, whole], reader, parts, batch_size=4).figures
    assert figures["member_0"]["test"]["ciou"] == figures["member_0"]["validation"]["ciou"] == 1
    assert figures["member_1"]["test"]["ciou"] == figures["baselines"]["whole_image"]["ciou"]
    # The mean is 1 where both say so and 0.5 elsewhere.
    assert figures["threshold"] > 0.5
    assert figures["test"]["ciou"] == 1


def test_the_table_has_a_line_for_each_test_row(
    perfect: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """Every test sample with its area and cIoU; a silent one has none; validation is left out."""
    table = score_model([perfect], reader, parts, batch_size=4).table
    lines = list(csv.DictReader(table.splitlines()))
    rows = np.concatenate([found for part, found in parts.items() if part != "validation"])
    assert [line["sample_id"] for line in lines] == [data.sample_ids[row] for row in rows]
    for line, mask in zip(lines, data.box_masks(rows), strict=True):
        assert float(line["area"]) == pytest.approx(mask.mean(), abs=1e-4)
        assert line["ciou"] == ("1.0000" if mask.any() else "")


def test_an_object_prior_is_scored_beside_the_model(softened: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """What the model scores alone stays as it is; with all of the model's share the prior adds nothing to a truth."""
    alone = score_model([softened], reader, parts, batch_size=4)
    both = score_model([softened], reader, parts, batch_size=4, prior=Sight(1.0))
    assert alone.figures["ogl"] is None
    assert {**both.figures, "ogl": None} == alone.figures
    assert both.table == alone.table
    ogl = both.figures["ogl"]
    assert (ogl["alpha"], ogl["backbone"]) == (1.0, "resnet18")
    assert set(ogl) == {"alpha", "backbone", "weights", "mean", "std", "threshold", *parts}
    for part in ("validation", "test", "test_swap"):
        assert (ogl[part]["n"], ogl[part]["ciou"]) == (len(parts[part]), 1)


def test_an_object_prior_alone_is_deaf(perfect: Fake, noise: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """Without any share of the model's, models and sounds make no difference and something is found in every frame."""

    def scored(model: Fake, alpha: float, batch_size: int = 4) -> dict[str, Any]:
        found: dict[str, Any] = score_model([model], reader, parts, batch_size, Sight(alpha)).figures["ogl"]
        return found

    deaf = scored(noise, 0.0)
    assert scored(perfect, 0.0) == deaf
    assert deaf["test"]["ciou_shuffled"] == deaf["test"]["ciou"]
    assert deaf["test_offscreen"]["false_positive_rate"] == 1
    assert scored(noise, 0.4, 1) == scored(noise, 0.4, 100) != deaf | {"alpha": 0.4}


def test_a_guided_threshold_comes_from_validation(
    noise: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """With a prior too, other truth in test leaves the threshold as it was, and in validation it moves it."""
    usual, wrong_test, wrong_validation = (
        score_model([noise], r, parts, batch_size=100, prior=Sight(0.4)).figures["ogl"]
        for r in (reader, Inverted(data, parts["test"]), Inverted(data, parts["validation"]))
    )
    assert wrong_test["test"] != usual["test"]
    assert (wrong_test["threshold"], wrong_test["validation"]) == (usual["threshold"], usual["validation"])
    assert wrong_validation["threshold"] < usual["threshold"]


def test_caveats_name_few_recordings_and_scores_like_a_disc() -> None:
    """A clear lead over many clips has none; a tie, a loss and few recordings have one; silent samples do not count."""
    hit, miss = torch.full((60,), 0.8, dtype=torch.float64), torch.full((60,), 0.1, dtype=torch.float64)
    names = [f"r{k}" for k in range(60)]
    assert caveats(hit, miss, names) == []
    (tie,) = caveats(hit, hit, names)
    assert "does not differ" in tie
    (loss,) = caveats(miss, hit, names)
    assert "100.0 points" in loss
    (few,) = caveats(hit, miss, [f"r{k % 5}" for k in range(60)])
    assert says(few, "60 5 recordings")
    assert caveats(torch.where(torch.arange(60) < 40, hit, torch.nan), miss, names) == []
    assert caveats(hit * torch.nan, miss, names) == []
