"""Scores of a model on validation and test, with the baselines and controls that give them meaning."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from avsl.data.loading import RowReader
from avsl.data.transforms import plain_view
from avsl.engine.build import derive_seed
from avsl.functional import localization as F
from avsl.functional.object_guided import object_guided
from avsl.metrics import ExtendedScore, FalsePositiveRate, InteractiveScore, LocalizationScore, ThresholdSweep
from avsl.models import ObjectPrior, average
from avsl.types import AVBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRIC = "CIoU@0.5, fixed threshold chosen on validation"


@dataclass(frozen=True)
class Maps:
    """The maps of some rows and their truth.

    Attributes:
        rows: (N,) row numbers.
        members: one (N, h, w) tensor of confidences for each member of the model.
        shuffled: the same with each frame hearing another row's sound; None where that was not asked for.
        truth: (N, H, W) box masks in {0, 1}.
    """

    rows: NDArray[np.int64]
    members: Sequence[Tensor]
    shuffled: Sequence[Tensor] | None
    truth: Tensor

    @property
    def confidence(self) -> Tensor:
        """The model's map: the members' mean."""
        return average(self.members)

    def member(self, k: int) -> Maps:
        """The k-th member alone."""
        shuffled = None if self.shuffled is None else [self.shuffled[k]]
        return Maps(self.rows, [self.members[k]], shuffled, self.truth)


@torch.inference_mode()
def compute_maps(
    members: Sequence[nn.Module], reader: RowReader, rows: NDArray[np.int64], batch_size: int, *, shuffle: bool = False
) -> Maps:
    """Run the members over ``rows``, with the right sounds and, where asked, with shuffled ones.

    The shuffle is seeded and leaves no frame its own sound (where there are two rows).
    """
    order = np.random.default_rng(derive_seed(3000, len(rows))).permutation(len(rows))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    maps: list[list[Tensor]] = [[] for _ in members]
    shuffled: list[list[Tensor]] = [[] for _ in members]
    truth = []
    for start in range(0, len(rows), batch_size):
        stop = start + batch_size
        right = reader(rows[start:stop], masks=True)
        view = plain_view(right)
        for member, found in zip(members, maps, strict=True):
            found.append(member(view).confidence)
        if shuffle:
            wrong = plain_view(reader(rows[other[start:stop]], masks=False))
            swapped = AVBatch(view.frame, wrong.waveform, wrong.features, view.index, view.geometry)
            for member, found in zip(members, shuffled, strict=True):
                found.append(member(swapped).confidence)
        if right.mask is not None:
            truth.append(right.mask)
    heard = [torch.cat(m) for m in maps]
    return Maps(rows, heard, [torch.cat(m) for m in shuffled] if shuffle else None, torch.cat(truth))


@torch.inference_mode()
def guide(maps: Maps, prior: ObjectPrior, reader: RowReader, batch_size: int) -> Maps:
    """The model's maps mixed with an object prior (OGL), at the truth's size.

    What is mixed are logits: those of one localiser are linear in its similarity, the published map.
    """
    heard: list[Tensor] = []
    shuffled: list[Tensor] = []
    right, wrong = maps.confidence, None if maps.shuffled is None else average(maps.shuffled)
    size = (maps.truth.shape[-2], maps.truth.shape[-1])
    for start in range(0, len(maps.rows), batch_size):
        part = slice(start, start + batch_size)
        objects = prior(reader(maps.rows[part], masks=False).frame)
        for confidence, found in ((right, heard), (wrong, shuffled)):
            if confidence is not None:
                found.append(object_guided(confidence[part].logit(eps=1e-6), objects, prior.config.alpha, size))
    return Maps(maps.rows, [torch.cat(heard)], [torch.cat(shuffled)] if shuffled else None, maps.truth)


def choose_threshold(confidence: Tensor, truth: Tensor) -> float:
    """The fixed threshold with the best CIoU@0.5 on (N, h, w) validation maps with (N, H, W) truth."""
    sweep = ThresholdSweep()
    for maps, masks in zip(torch.split(confidence, 100), torch.split(truth, 100), strict=True):
        sweep.update(maps, masks)
    return sweep.best()


def score(
    confidence: Tensor, truth: Tensor, convention: F.Convention, threshold: float | None = None
) -> dict[str, float]:
    """CIoU@0.5, CIoU@0.7, AUC and mean cIoU under a threshold convention."""
    metric = LocalizationScore(convention, threshold)
    metric.update(confidence, truth)
    return {name: float(value) for name, value in metric.compute().items()}


def score_part(maps: Maps, threshold: float, groups: Sequence[str]) -> dict[str, Any]:
    """All figures of one part of the data.

    Args:
        maps: its maps.
        threshold: the fixed one, from validation.
        groups: each row's group; rows of one frame share it.

    Returns:
        ``n`` and ``n_silent`` (rows with and without a source in view); ``ciou``, ``ciou_70`` (CIoU@0.7),
        ``auc``, ``mean_ciou`` at the fixed threshold; the same with suffix ``_median`` and, told the true area,
        ``_oracle``; ``ciou_shuffled`` with wrong sounds, where there are maps of them; ``iiou`` and ``iauc`` where
        frames have several sounds; ``false_positive_rate`` over silent rows.
    """
    confidence, truth = maps.confidence, maps.truth
    sounding = truth.flatten(1).amax(1) > 0
    silent = ~sounding
    result: dict[str, Any] = {"n": int(sounding.sum()), "n_silent": int(silent.sum())}
    if result["n"]:
        p, t = confidence[sounding], truth[sounding]
        result |= score(p, t, "fixed", threshold)
        result |= {f"{name}_median": value for name, value in score(p, t, "median").items()}
        result |= {f"{name}_oracle": value for name, value in score(p, t, "adaptive").items()}
        if maps.shuffled is not None:
            result["ciou_shuffled"] = score(average(maps.shuffled)[sounding], t, "fixed", threshold)["ciou"]
        kept = np.asarray(groups, object)[sounding.numpy()]
        _, number, size = np.unique(kept, return_inverse=True, return_counts=True)
        if size.max() > 1:
            interactive = InteractiveScore("fixed", threshold)
            interactive.update(p, t, torch.from_numpy(number))
            result |= {name: float(value) for name, value in interactive.compute().items()}
    if result["n_silent"]:
        rate = FalsePositiveRate(threshold)
        rate.update(confidence[silent], (truth.shape[-2], truth.shape[-1]))
        result["false_positive_rate"] = float(rate.compute())
    return result


def score_detection(parts: Iterable[Maps], threshold: float) -> dict[str, float]:
    """``ap`` and ``max_f1`` over the rows of several parts together, silent ones as negatives.

    SLAVC's extended protocol (`ExtendedScore`) on the confidence itself, with masks cut at the fixed threshold.
    """
    metric = ExtendedScore("fixed", threshold)
    for part in parts:
        for maps, masks in zip(torch.split(part.confidence, 100), torch.split(part.truth, 100), strict=True):
            metric.update(maps, masks)
    found = metric.compute()
    return {name: float(found[name]) for name in ("ap", "max_f1")}


def break_down(maps: Maps, threshold: float, labels: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """CIoU@0.5 at the fixed threshold by kinds of rows; silent rows are left out.

    Args:
        maps: a part's maps.
        threshold: the fixed one, from validation.
        labels: each row's class.

    Returns:
        ``by_size``: ``n`` and ``ciou`` by the source's share of the frame (`avsl.functional.localization.area_bucket`);
        ``by_class``: the same by class. Kinds without a row are left out.
    """
    scores = F.ciou(F.predict_mask(maps.confidence, maps.truth, "fixed", threshold), maps.truth)
    sizes = [F.AREA_BUCKETS[k] for k in F.area_bucket(maps.truth).tolist()]
    return {
        "by_size": _rate_by(sizes, scores, F.AREA_BUCKETS),
        "by_class": _rate_by(labels, scores, sorted(set(labels))),
    }


def _rate_by(kinds: Sequence[str], scores: Tensor, order: Iterable[str]) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    sounding, names = ~scores.isnan(), np.asarray(kinds, object)
    for kind in order:
        rows = scores[sounding & torch.from_numpy(names == kind)]
        if len(rows):
            rates[kind] = {"n": len(rows), "ciou": float(F.success_rate(rows))}
    return rates


def baselines(truth: Tensor) -> dict[str, dict[str, float]]:
    """What needs no model, on (N, H, W) truth: the whole image, a centred disc, and a perfect ranking of pixels.

    Each under the median convention; the first two at a fixed threshold too, where a perfect ranking means nothing.
    """
    truth = truth[truth.flatten(1).amax(1) > 0]
    result = {}
    for name, maps in F.trivial_maps(truth).items():
        result[name] = {f"{key}_median": value for key, value in score(maps, truth, "median").items()}
        if name != "perfect_ranking":
            result[name] |= score(maps, truth, "fixed", 0.5)
    return result


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        figures: threshold, one entry for each part (``test`` broken down too, ``test_offscreen`` with the detection
            scores of ``test`` and itself), one for each member on its own, the baselines, and ``ogl``: None, or the
            threshold and parts once more with an object prior.
        table: CSV with a line for each test row.
        validation: the validation rows' maps.
    """

    figures: dict[str, Any]
    table: str
    validation: Maps


def score_model(
    members: Sequence[nn.Module],
    reader: RowReader,
    parts: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    prior: ObjectPrior | None = None,
) -> Evaluation:
    """Score a model.

    Args:
        members: localisers whose confidences are averaged, in evaluation mode.
        reader: of the prepared data.
        parts: row numbers by part; ``validation`` chooses the threshold, the others are test parts.
        batch_size: rows at a time.
        prior: scored with the model beside the model alone, with a threshold chosen for the two.
    """
    # One part is enough to see whether a model listens.
    computed = {p: compute_maps(members, reader, rows, batch_size, shuffle=p == "test") for p, rows in parts.items()}
    groups = {part: [str(reader.data.group_ids[row]) for row in rows] for part, rows in parts.items()}
    validation = computed["validation"]
    threshold = choose_threshold(validation.confidence, validation.truth)
    figures: dict[str, Any] = {"metric": METRIC, "threshold": threshold}
    figures |= {part: score_part(maps, threshold, groups[part]) for part, maps in computed.items()}
    if len(members) > 1:
        for k in range(len(members)):
            alone = {p: computed[p].member(k) for p in ("validation", "test") if p in computed}
            own = choose_threshold(alone["validation"].confidence, validation.truth)
            figures[f"member_{k}"] = {"threshold": own} | {
                part: score_part(maps, own, groups[part]) for part, maps in alone.items()
            }
    if "test" in computed:
        test = computed["test"]
        figures["test"] |= break_down(test, threshold, [str(reader.data.labels[row]) for row in test.rows])
        if "test_offscreen" in computed:
            figures["test_offscreen"] |= score_detection((test, computed["test_offscreen"]), threshold)
        figures["baselines"] = baselines(test.truth)
    figures["ogl"] = None
    if prior is not None:
        guided = guide(validation, prior, reader, batch_size)
        own = choose_threshold(guided.confidence, guided.truth)
        figures["ogl"] = prior.config.model_dump(mode="json") | {"threshold": own}
        # Part by part: these maps are as large as the frames.
        for part, maps in computed.items():
            mixed = guided if maps is validation else guide(maps, prior, reader, batch_size)
            figures["ogl"][part] = score_part(mixed, own, groups[part])
    return Evaluation(figures, _table(reader, computed, threshold), validation)


def _table(reader: RowReader, computed: Mapping[str, Maps], threshold: float) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sample_id", "part", "label", "area", "ciou", "max_confidence"])
    for part, maps in computed.items():
        if part == "validation":
            continue
        confidence, truth = maps.confidence, maps.truth
        area = truth.mean((-2, -1))
        ious = F.ciou(F.predict_mask(confidence, truth, "fixed", threshold), truth)
        for k, row in enumerate(maps.rows):
            ciou = f"{float(ious[k]):.4f}" if area[k] > 0 else ""
            peak = float(confidence[k].max())
            data = reader.data
            line = [data.sample_ids[row], part, data.labels[row], f"{float(area[k]):.4f}", ciou, f"{peak:.4f}"]
            writer.writerow(line)
    return out.getvalue()
