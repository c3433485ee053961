"""Scores of maps: the figures of a part, breakdowns by kinds of rows, detections, baselines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avsl.data.prepared.reader import PreparedData
from avsl.evaluation.maps import CHUNK, Maps
from avsl.functional import localization as F
from avsl.metrics import METRICS, DetectionScore, PartScore
from avsl.models import average
from avsl.schema import ConfigError

GIVEN_METRIC = "CIoU@0.5, fixed threshold of the model"
METRIC = "CIoU@0.5, threshold cross-fitted on validation"


@dataclass(frozen=True)
class PartScores:
    """Scores of one part of the data.

    Attributes:
        figures: see `score_part`.
        ciou: (N,) float64 at the fixed threshold; NaN on silent rows.
        area: (N,) share of the frame covered by sources.
        size: (N,) class of that share, an index into `avsl.functional.localization.AREA_BUCKETS`.
        peak: (N,) the highest confidence of the map.
    """

    figures: dict[str, Any]
    ciou: Tensor
    area: Tensor
    size: Tensor
    peak: Tensor


def score_part(part: str, maps: Maps, threshold: float, rows: Tensor | None = None) -> PartScores:
    """Score one part of the data.

    Args:
        part: name of the part.
        maps: its maps.
        threshold: the fixed threshold, from validation.
        rows: (N,) threshold of each row in place of the fixed one; metrics of plug-ins use the fixed one.

    Returns:
        As figures ``n`` and ``n_silent`` (rows with and without a source in view), and ``n_listed``, how many rows the
        data set's lists name, found or not. ``ciou``, ``ciou_70`` (CIoU@0.7), ``auc``, ``mean_ciou`` at the fixed
        threshold; the same with suffix ``_median`` and, given the true area, ``_oracle``; ``ciou_shuffled`` with wrong
        sounds, where there are maps of them; ``false_positive_rate`` over silent rows. Only where they mean something:

        with suffix ``_consensus`` those with ``_median`` once more, where every annotator's boxes are known, as
        published code scores Flickr-SoundNet: a pixel that one annotator marked counts half;

        ``iiou`` and ``iauc`` where one frame is heard with several sounds, one at a time; where several sources sound
        at once ``p10``, ``p30``, ``p50`` and ``pixel_ap`` at the fixed threshold, the same as published (AVGN: Mo &
        Tian, CVPR 2023, arXiv 2303.17056) with suffix ``_aligned``, and ``piap_as_published``; over the ``n_exact``
        rows whose truth is an exact mask AVSBench's ``miou`` and ``fscore``, and over those of them that sound
        ``pixel_ap``; the scores of `avsl.metrics.METRICS`.

    Raises:
        ConfigError: an entry of `avsl.metrics.METRICS` has the name of another score.
    """
    data = maps.reader.data
    mixed, exact = bool(data.mixed(maps.rows).any()), bool(data.exact[maps.rows].any())
    voted = bool(data.voted(maps.rows).any())
    score = PartScore(len(maps.rows), threshold if rows is None else rows, mixed=mixed, exact_masks=exact)
    further = {name: make(threshold) for name, make in METRICS.items()}
    for chunk in maps.chunks():
        consensus = maps.reader.consensus(maps.rows[chunk.rows]) if voted else None
        score.update(
            chunk.confidence, chunk.truth, chunk.exact, chunk.group, shuffled=chunk.shuffled, consensus=consensus
        )
        for metric in further.values():
            metric.update(chunk.confidence, chunk.truth)
    n, n_silent = len(maps.rows), int(score.ciou.isnan().sum())
    counts = {"n": n - n_silent, "n_silent": n_silent, "n_listed": data.manifest.expected.get(part, n)}
    figures = counts | {name: value.item() for name, value in score.compute().items()}
    for name, metric in further.items():
        if name in figures:
            raise ConfigError(f"METRICS['{name}']: '{name}' is the name of another score")
        if not math.isnan(value := float(metric.compute())):
            figures[name] = value
    return PartScores(figures, score.ciou, score.area, score.size, score.peak)


def score_detection(parts: Iterable[Maps], threshold: float) -> dict[str, float]:
    """Compute ``ap`` and ``max_f1`` over the rows of several parts together; silent rows are negatives.

    SLAVC's extended protocol (`avsl.metrics.DetectionScore`) on the confidence itself, with masks cut at the fixed
    threshold.
    """
    parts = list(parts)
    score = DetectionScore(sum(len(maps.rows) for maps in parts), threshold)
    for maps in parts:
        for chunk in maps.chunks():
            score.update(chunk.confidence, chunk.truth)
    return {name: value.item() for name, value in score.compute().items()}


def break_down(scores: PartScores, labels: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Compute CIoU@0.5 at the fixed threshold by size and class, without silent rows.

    Args:
        scores: scores of a part.
        labels: class of each row; empty if unknown.

    Returns:
        ``by_size``: ``n`` and ``ciou`` by the source's share of the frame (`avsl.functional.localization.area_bucket`);
        ``by_class``: the same by class, if classes are known. Sizes and classes without a row are left out.
    """
    sizes = [F.AREA_BUCKETS[k] for k in scores.size.tolist()]
    found = {"by_size": _rate_by(sizes, scores.ciou, F.AREA_BUCKETS)}
    classes = sorted(set(labels) - {""})
    return found | ({"by_class": _rate_by(labels, scores.ciou, classes)} if classes else {})


def _rate_by(kinds: Sequence[str], scores: Tensor, order: Iterable[str]) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    sounding, names = ~scores.isnan(), np.asarray(kinds, object)
    for kind in order:
        rows = scores[sounding & torch.from_numpy(names == kind)]
        if len(rows):
            rates[kind] = {"n": len(rows), "ciou": float(F.success_rate(rows))}
    return rates


def share_boxed(confidence: Tensor, size: int, threshold: float) -> float:
    """Compute the share of (N, h, w) confidence maps that reach the threshold in a frame of ``size`` px a side.

    Raises:
        ValueError: N is 0.
    """
    if not len(confidence):
        raise ValueError("a share of frames needs at least one frame")
    boxed = 0
    for few in torch.split(confidence, CHUNK):
        boxed += int((F.count(F.binarize(F.resize_as(few, (size, size), "fixed"), "fixed", threshold)) > 0).sum())
    return boxed / len(confidence)


def control_sounds(data: PreparedData) -> dict[str, Tensor]:
    """Make the control sounds, (T,) in [-1, 1]: digital ``silence`` and white ``noise`` (seeded, SD 0.1)."""
    length = data.manifest.n_samples_audio
    noise = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(0))
    return {"silence": torch.zeros(length), "noise": noise.clamp(-1, 1)}


def boxed_controls(maps: Maps, threshold: float) -> dict[str, float]:
    """Compute the share of frames that get a box although no source in view sounds (arXiv 2410.01020).

    Args:
        maps: with shuffled sounds and with `control_sounds`.
        threshold: the fixed threshold.

    Returns:
        ``boxed_silence``, ``boxed_noise`` and, if classes are known, ``boxed_offscreen``: with the sound of a sample of
        another class, over the frames with such a sound.
    """
    data, side = maps.reader.data, maps.reader.data.manifest.image_size
    found = {f"boxed_{name}": share_boxed(confidence, side, threshold) for name, confidence in maps.controls.items()}
    if maps.shuffled is not None and maps.sounds is not None:
        own, other = data.labels[maps.rows], data.labels[maps.sounds]
        foreign = torch.from_numpy(((own != other) & (own != "") & (other != "")).astype(bool))
        if bool(foreign.any()):
            found["boxed_offscreen"] = share_boxed(average(maps.shuffled)[foreign], side, threshold)
    return found


@dataclass(frozen=True)
class Baselines:
    """Scores of the baselines that need no model.

    Attributes:
        figures: by baseline and score; empty if no row has a source in view.
        disc: (N,) float64 cIoU of the centered disc at its fixed threshold; NaN on silent rows.
    """

    figures: dict[str, dict[str, float]]
    disc: Tensor


def baselines(maps: Maps) -> Baselines:
    """Score the whole image, a centered disc and a perfect ranking of pixels against the truth of some maps.

    All are scored under the median convention, the first two also at a fixed threshold. Silent rows are left out.
    """
    columns: dict[str, Tensor] = {}
    for chunk in maps.chunks():
        for name, trivial in F.trivial_maps(chunk.truth).items():
            masks = F.predict_masks(trivial, chunk.truth, {"median": None, "fixed": 0.5})
            for key, mask in ((f"{name}_median", masks["median"]), (name, masks["fixed"])):
                column = columns.setdefault(key, torch.zeros(len(maps.rows), dtype=torch.float64))
                column[chunk.rows] = F.ciou(mask, chunk.truth)
    found: dict[str, dict[str, float]] = {}
    for name in ("whole_image", "centered_disc", "perfect_ranking"):
        found[name] = {}
        for suffix in ("_median",) if name == "perfect_ranking" else ("_median", ""):
            scores = columns[name + suffix]
            summary = F.summarize(scores[~scores.isnan()])
            found[name] |= {key + suffix: float(value) for key, value in summary.items()}
    return Baselines(found, columns["centered_disc"])
