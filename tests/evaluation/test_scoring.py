"""Figures of a part, each by another way of computing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures.localizers import Fake, Listener, Rows

from avsl.data.loading import RowReader
from avsl.data.prepared.format import Manifest, Sample, ShardEntry
from avsl.data.prepared.reader import PreparedData
from avsl.data.prepared.writer import write_manifest, write_shard
from avsl.evaluation.evaluate import score_model
from avsl.evaluation.maps import Maps, compute_maps
from avsl.evaluation.scoring import boxed_controls, break_down, control_sounds, score_part
from avsl.files import file_hash
from avsl.functional import localization as F
from avsl.functional import segmentation as S
from avsl.functional.boxes import consensus_map


def test_breakdowns_are_the_rates_of_their_rows(noise: Fake, data: PreparedData, reader: RowReader) -> None:
    """CIoU by size and by class, over sounding rows alone, as a loop over the rows finds it."""
    rows = np.concatenate([data.indices("test"), data.indices("test_offscreen"), data.indices("test_small")])
    maps = compute_maps([noise], reader, rows, 4)
    labels = [str(data.labels[row]) for row in rows]
    threshold = 0.3
    found = break_down(score_part("test", maps, threshold), labels)
    truth = torch.from_numpy(data.box_masks(rows)).float()
    scores = F.ciou(F.predict_mask(maps.confidence, truth, "fixed", threshold), truth).tolist()
    bounds = {"small": 32**2, "medium": 96**2, "large": 144**2, "huge": 224**2 + 1}
    by_size: dict[str, list[bool]] = {}
    by_class: dict[str, list[bool]] = {}
    for score, mask, label in zip(scores, truth, labels, strict=True):
        if mask.any():
            area = float(mask.mean()) * 224**2
            by_size.setdefault(next(name for name, bound in bounds.items() if area < bound), []).append(score >= 0.5)
            by_class.setdefault(label, []).append(score >= 0.5)
    assert len(by_size) > 1
    for kinds, rates in ((by_size, found["by_size"]), (by_class, found["by_class"])):
        assert rates == {name: {"n": len(rows), "ciou": sum(rows) / len(rows)} for name, rows in kinds.items()}
    assert list(found["by_size"]) == [name for name in F.AREA_BUCKETS if name in by_size]
    assert list(found["by_class"]) == sorted(by_class)
    unknown = break_down(score_part("test", maps, threshold), [""] * len(rows))
    assert unknown == {"by_size": found["by_size"]}


def test_mixtures_have_the_multi_source_figures(
    noise: Fake, softened: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """On rows that hear two sources at once, whatever their part, at the fixed threshold and as published.

    There is no worst of several sounds there, though rows share a frame.
    """
    duets = np.repeat(parts["test_duet"], 2)
    figures = score_model([softened], reader, parts | {"test_duet": duets}, batch_size=4).figures
    names = {"p10", "p30", "p50", "pixel_ap"}
    assert {figures["test_duet"][name] for name in names} == {1}
    assert "iiou" in figures["test_swap"]
    assert "iiou" not in figures["test_duet"]
    for part in ("validation", "test", "test_swap"):
        assert names.isdisjoint(figures[part])
    alone = {"validation": parts["validation"], "test": duets}
    assert score_model([softened], reader, alone, batch_size=4).figures["test"]["pixel_ap"] == 1
    maps = compute_maps([noise], reader, duets, 4)
    truth = torch.from_numpy(data.box_masks(duets)).float()
    found = score_part("test", maps, 0.4).figures
    conventions: tuple[tuple[F.Convention, str], ...] = (("fixed", ""), ("median_aligned", "_aligned"))
    for convention, suffix in conventions:
        resized = F.resize_as(maps.confidence, (truth.shape[-2], truth.shape[-1]), convention)
        pred = F.predict_mask(maps.confidence, truth, convention, 0.4 if convention == "fixed" else None)
        expected = S.summarize_sources(F.ciou(pred, truth), S.pixel_average_precision(resized, truth))
        for name in names:
            assert found[name + suffix] == pytest.approx(expected[name].item(), abs=1e-9)
    assert found["piap_as_published"] == pytest.approx(S.piap_as_published(pred, truth).mean().item(), abs=1e-9)
    assert found["p10"] > found["p50"]


def test_every_annotators_boxes_give_the_published_figures_too(
    data: PreparedData, parts: dict[str, Rows], tmp_path: Path
) -> None:
    """What one of several annotators marked counts half, under the median convention; other rows have no say."""
    drawn = [[[0, 0, 128, 128], [64, 0, 192, 128], [64, 64, 128, 256]], [[128, 128, 256, 256], [128, 128, 192, 256]]]
    known = [
        ([[0.25, 0, 0.5, 0.5]], {"boxes_256": drawn[0]}),
        ([[0.5, 0.5, 0.75, 1]], {"boxes_256": drawn[1]}),
        ([], {}),
    ]
    frame, sound = np.zeros((32, 32, 3), np.uint8), np.zeros(400, np.int16)
    samples = [
        Sample(
            f"s{k}", f"s{k}", f"s{k}", "test", "", frame, sound, np.array(boxes, np.float32).reshape(-1, 4), meta=meta
        )
        for k, (boxes, meta) in enumerate(known)
    ]
    write_shard(tmp_path / "shard-00000.arrow", samples)
    path = tmp_path / "shard-00000.arrow"
    entry = ShardEntry(file=path.name, rows=3, bytes=path.stat().st_size, sha256=file_hash(path))
    sizes = {"image_size": 32, "sample_rate": 16000, "n_samples_audio": 400}
    manifest = Manifest(
        **sizes, name="f", counts={"test": 3}, classes=[], settings={}, shards=[entry], content_hash=entry.sha256
    )
    write_manifest(tmp_path, manifest)
    rows = np.arange(3)
    confidence = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    maps = Maps(rows, [confidence], None, RowReader(PreparedData.open(tmp_path), [], rows))
    found = score_part("test", maps, 0.5).figures
    consensus = torch.from_numpy(np.stack([consensus_map(np.array(boxes) / 256, 32) for boxes in drawn]))
    summary = F.summarize(F.ciou(F.predict_mask(confidence[:2], consensus, "median"), consensus))
    expected = {f"{name}_consensus": value.item() for name, value in summary.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["mean_ciou_consensus"] != pytest.approx(found["mean_ciou_median"])
    ours = Maps(parts["test"], [confidence[:1].repeat(6, 1, 1)], None, RowReader(data, [], np.arange(len(data))))
    assert not any("consensus" in name for name in score_part("test", ours, 0.5).figures)


def test_negative_sounds_are_counted_at_the_very_threshold(
    noise: Fake, whole: Fake, reader: RowReader, data: PreparedData, parts: dict[str, Rows]
) -> None:
    """A listener stays empty in silence and fires at noise; a deaf model fires alike; other classes' sounds count."""
    for model, threshold, expected in ((Listener(), 0.5, (0, 1)), (whole, 0.5, (1, 1)), (Listener(), 0.99, (0, 0))):
        maps = compute_maps([model], reader, parts["test"], 4, shuffle=True, controls=control_sounds(data))
        found = boxed_controls(maps, threshold)
        assert (found["boxed_silence"], found["boxed_noise"]) == expected
    maps = compute_maps([noise], reader, parts["test"], 4, shuffle=True)
    assert maps.sounds is not None
    foreign = [
        k for k, (a, b) in enumerate(zip(data.labels[maps.rows], data.labels[maps.sounds], strict=True)) if a != b
    ]
    assert foreign
    assert maps.shuffled is not None
    size = (data.manifest.image_size,) * 2
    cut = float(F.resize_as(maps.shuffled[0], size, "fixed").amax((1, 2))[foreign].median())
    boxed = F.binarize(F.resize_as(maps.shuffled[0][foreign], size, "fixed"), "fixed", cut).flatten(1).any(1)
    found = boxed_controls(maps, cut)
    assert found["boxed_offscreen"] == boxed.double().mean()
    assert 0 < found["boxed_offscreen"] < 1
    figures = score_model([noise], reader, parts, batch_size=4).figures
    assert {"boxed_silence", "boxed_noise", "boxed_offscreen"} <= figures["test"].keys()
    assert "boxed_silence" not in figures["test_swap"]
