"""Scores of a model on validation and test, with the baselines and controls that give them meaning.

Maps are kept at the model's resolution and brought to the frame's a few rows at a time, so that memory does not grow
with the number of rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.data.transforms import plain_view
from avsl.functional import detection as D
from avsl.functional import localization as F
from avsl.functional import segmentation as S
from avsl.functional.object_guided import object_guided
from avsl.functional.seeds import derive_seed
from avsl.metrics import ThresholdSweep
from avsl.metrics.localization import validate
from avsl.models import ObjectPrior, average
from avsl.types import AVBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRIC = "CIoU@0.5, fixed threshold chosen on validation"
# Rows scored at a time: at 224 px a few of their maps fit into a core's cache.
_CHUNK = 16
# Of validation's rows with a source in view, the share whose map's peak counts as one.
_KEPT = 0.95


@dataclass(frozen=True)
class Chunk:
    """A few rows, ready to be scored.

    Attributes:
        rows: where they lie among the part's.
        confidence: (B, h, w).
        shuffled: the same with other rows' sounds; None where there are no such maps.
        truth: (B, H, W) bool, as annotated.
        exact: (B,) bool: the truth is a mask of the very pixels that sound, not boxes.
        group: (B,) integer, the same for all of the part's rows that share a frame.
    """

    rows: slice
    confidence: Tensor
    shuffled: Tensor | None
    truth: Tensor
    exact: Tensor
    group: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the truth, px."""
        return self.truth.shape[-2], self.truth.shape[-1]


@dataclass(frozen=True)
class Guidance:
    """An object prior's part in some maps (OGL).

    Attributes:
        objects: (N, h', w') object maps.
        alpha: the model's share in the mixture.
    """

    objects: Tensor
    alpha: float


@dataclass(frozen=True)
class Maps:
    """The maps of some rows.

    Attributes:
        rows: (N,) row numbers.
        members: one (N, h, w) tensor of confidences for each member of the model.
        shuffled: the same with each frame hearing another row's sound; None where that was not asked for.
        reader: reads their truth.
        guidance: an object prior to be mixed in; None for none.
    """

    rows: NDArray[np.int64]
    members: Sequence[Tensor]
    shuffled: Sequence[Tensor] | None
    reader: RowReader
    guidance: Guidance | None = None

    @property
    def confidence(self) -> Tensor:
        """The model's own map: the members' mean."""
        return average(self.members)

    def member(self, k: int) -> Maps:
        """The k-th member alone."""
        shuffled = None if self.shuffled is None else [self.shuffled[k]]
        return replace(self, members=[self.members[k]], shuffled=shuffled)

    def chunks(self) -> Iterator[Chunk]:
        """A few rows at a time, in order."""
        heard, shuffled = self.confidence, None if self.shuffled is None else average(self.shuffled)
        data = self.reader.data
        exact = torch.from_numpy(data.exact[self.rows])
        group = torch.from_numpy(np.unique(data.group_ids[self.rows], return_inverse=True)[1])
        for start in range(0, len(self.rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            truth = self.reader.truth(self.rows[part])
            size = (truth.shape[-2], truth.shape[-1])
            yield Chunk(
                part,
                self._guided(heard[part], part, size),
                None if shuffled is None else self._guided(shuffled[part], part, size),
                truth,
                exact[part],
                group[part],
            )

    def _guided(self, confidence: Tensor, part: slice, size: tuple[int, int]) -> Tensor:
        if self.guidance is None:
            return confidence
        # What is mixed are logits: those of one localizer are linear in its similarity, the published map.
        objects = self.guidance.objects[part]
        return object_guided(confidence.logit(eps=1e-6), objects, self.guidance.alpha, size)


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
    for start in range(0, len(rows), batch_size):
        stop = start + batch_size
        view = plain_view(reader(rows[start:stop], masks=False))
        for member, found in zip(members, maps, strict=True):
            found.append(member(view).confidence)
        if shuffle:
            wrong = plain_view(reader(rows[other[start:stop]], masks=False))
            swapped = AVBatch(view.frame, wrong.waveform, wrong.features, view.index, view.geometry)
            for member, found in zip(members, shuffled, strict=True):
                found.append(member(swapped).confidence)
    return Maps(rows, [torch.cat(m) for m in maps], [torch.cat(m) for m in shuffled] if shuffle else None, reader)


@torch.inference_mode()
def guide(maps: Maps, prior: ObjectPrior, batch_size: int) -> Maps:
    """The model's maps, to be mixed with an object prior (OGL) at the truth's size."""
    batches = [maps.rows[start : start + batch_size] for start in range(0, len(maps.rows), batch_size)]
    objects = torch.cat([prior(maps.reader(rows, masks=False).frame) for rows in batches])
    return replace(maps, guidance=Guidance(objects, prior.config.alpha))


def choose_threshold(maps: Maps) -> float:
    """The fixed threshold with the best CIoU@0.5 on maps of validation; silent rows have no say.

    Raises:
        ValueError: no row has a source in view.
    """
    sweep = ThresholdSweep()
    for chunk in maps.chunks():
        sounding = F.count(chunk.truth) > 0
        sweep.update(chunk.confidence[sounding], chunk.truth[sounding])
    return sweep.best()


@torch.inference_mode()
def choose_presence(maps: Maps) -> float:
    """The peak of a map below which no visible source sounds: 95 % of validation's sounding rows reach it.

    Rows without a source in view have no say, as hardly any data set's validation has them: what this rejects of them
    is for a test to say.

    Raises:
        ValueError: no row has a source in view.
    """
    peaks = []
    for chunk in maps.chunks():
        smooth = F.resize_as(chunk.confidence, chunk.size, "fixed")
        peaks.append(smooth.amax((1, 2))[chunk.truth.flatten(1).any(1)])
    found = torch.cat(peaks)
    if not len(found):
        raise ValueError("no row has a source in view")
    return float(found.sort().values[int((1 - _KEPT) * len(found))])


@dataclass(frozen=True)
class PartScores:
    """What one part of the data scores.

    Attributes:
        figures: see `score_part`.
        ciou: (N,) float64 at the fixed threshold; NaN on silent rows.
        area: (N,) share of the frame that sounds.
        size: (N,) its class, an index into `avsl.functional.localization.AREA_BUCKETS`.
        peak: (N,) the highest confidence of the map.
    """

    figures: dict[str, Any]
    ciou: Tensor
    area: Tensor
    size: Tensor
    peak: Tensor


class _Columns:
    """What is measured of N rows, a few at a time, in columns that are there from the start.

    Small tensors kept from between large ones that come and go would tear the heap to pieces: the process would grow
    by a frame's map for each row.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._columns: dict[str, Tensor] = {}

    def put(self, rows: slice, values: Mapping[str, Tensor]) -> None:
        """Set what was measured of ``rows``, (B, ...) by name."""
        for name, value in values.items():
            if name not in self._columns:
                self._columns[name] = value.new_zeros((self.n, *value.shape[1:]))
            self._columns[name][rows] = value

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns


def _measure(
    chunk: Chunk, threshold: float, *, mixed: bool, exact: bool, consensus: Tensor | None
) -> dict[str, Tensor]:
    """What is known of each row on its own; NaN where a score needs a source in view.

    Args:
        chunk: the rows.
        threshold: the fixed one.
        mixed: whether a row hears several sources at once.
        exact: whether some row of the part has an exact mask.
        consensus: (B, H, W) of `RowReader.consensus`; None where no row of the part has it.
    """
    confidence, truth = chunk.confidence, chunk.truth
    validate(confidence, truth, silent=True)
    # Maps that have the truth's size already are left as they are, so each way of resizing is gone once.
    smooth = F.resize_as(confidence, chunk.size, "fixed")
    fixed = F.binarize(smooth, "fixed", threshold)
    ranked = F.predict_masks(confidence, truth, {"median": None, "adaptive": None})
    found = {
        "ciou": F.ciou(fixed, truth),
        "ciou_median": F.ciou(ranked["median"], truth),
        "ciou_oracle": F.ciou(ranked["adaptive"], truth),
        "fires": F.count(fixed) > 0,
        "area": F.count(truth) / (chunk.size[0] * chunk.size[1]),
        "size": F.area_bucket(truth),
        "peak": confidence.amax((-2, -1)),
        "group": chunk.group,
        "exact": chunk.exact,
    }
    if chunk.shuffled is not None:
        validate(chunk.shuffled, truth, silent=True)
        found["ciou_shuffled"] = F.ciou(F.predict_mask(chunk.shuffled, truth, "fixed", threshold), truth)
    if consensus is not None:
        found["ciou_consensus"] = F.ciou(ranked["median"], consensus)
    if mixed or exact:
        found["pixel_ap"] = S.pixel_average_precision(smooth, truth)
    if mixed:
        aligned = F.resize_as(confidence, chunk.size, "median_aligned")
        chosen = F.predict_mask(aligned, truth, "median_aligned")
        found["ciou_aligned"] = F.ciou(chosen, truth)
        found["pixel_ap_aligned"] = S.pixel_average_precision(aligned, truth)
        found["piap_as_published"] = S.piap_as_published(chosen, truth)
    if exact:
        found |= {"iou": S.avs_iou(smooth, truth), "f_scores": S.avs_f_scores(smooth, truth)}
    return found


def _summarize(columns: _Columns, *, mixed: bool) -> dict[str, Tensor]:
    """The figures of a part, from its rows."""
    sounding, exact = ~columns["ciou"].isnan(), columns["exact"]
    found: dict[str, Tensor] = {}
    if bool(sounding.any()):
        for suffix in ("", "_median", "_oracle"):
            summary = F.summarize(columns[f"ciou{suffix}"][sounding])
            found |= {name + suffix: score for name, score in summary.items()}
        if "ciou_consensus" in columns:
            voted = ~columns["ciou_consensus"].isnan()
            summary = F.summarize(columns["ciou_consensus"][voted])
            found |= {f"{name}_consensus": score for name, score in summary.items()}
        if "ciou_shuffled" in columns:
            found["ciou_shuffled"] = F.success_rate(columns["ciou_shuffled"][sounding])
        if mixed:
            for suffix in ("", "_aligned"):
                ciou, pixel_ap = (columns[name + suffix][sounding] for name in ("ciou", "pixel_ap"))
                found |= {name + suffix: score for name, score in S.summarize_sources(ciou, pixel_ap).items()}
            found["piap_as_published"] = columns["piap_as_published"][sounding].mean()
        elif bool((sounding & exact).any()):
            found["pixel_ap"] = columns["pixel_ap"][sounding & exact].mean()
        group = columns["group"][sounding]
        if not mixed and int(group.bincount().max()) > 1:
            worst = F.interactive_iou(columns["ciou"][sounding], group)
            found |= {"iiou": F.success_rate(worst), "iauc": F.auc(worst)}
    if not bool(sounding.all()):
        found["false_positive_rate"] = columns["fires"][~sounding].double().mean()
    if bool(exact.any()):
        found |= {"n_exact": exact.sum()} | S.summarize_avs(columns["iou"][exact], columns["f_scores"][exact])
    return found


def score_part(part: str, maps: Maps, threshold: float) -> PartScores:
    """Score one part of the data.

    Args:
        part: its name.
        maps: its maps.
        threshold: the fixed one, from validation.

    Returns:
        As figures ``n`` and ``n_silent`` (rows with and without a source in view), and ``n_listed``, how many rows the
        data set's lists name, found or not. ``ciou``, ``ciou_70`` (CIoU@0.7), ``auc``, ``mean_ciou`` at the fixed
        threshold; the same with suffix ``_median`` and, told the true area, ``_oracle``; ``ciou_shuffled`` with wrong
        sounds, where there are maps of them; ``false_positive_rate`` over silent rows. Only where they mean something:

        with suffix ``_consensus`` those with ``_median`` once more, where every annotator's boxes are known, as
        published code scores Flickr-SoundNet: a pixel that one annotator marked counts half;

        ``iiou`` and ``iauc`` where one frame is heard with several sounds, one at a time; where several sources sound
        at once ``p10``, ``p30``, ``p50`` and ``pixel_ap`` (`avsl.metrics.MultiSourceScore`) at the fixed threshold, the
        same as published with suffix ``_aligned``, and ``piap_as_published``; over the ``n_exact`` rows whose truth is
        an exact mask AVSBench's ``miou`` and ``fscore``, and over those of them that sound ``pixel_ap``.
    """
    data = maps.reader.data
    mixed, exact = bool(data.mixed(maps.rows).any()), bool(data.exact[maps.rows].any())
    voted = bool(data.voted(maps.rows).any())
    columns = _Columns(len(maps.rows))
    for chunk in maps.chunks():
        consensus = maps.reader.consensus(maps.rows[chunk.rows]) if voted else None
        columns.put(chunk.rows, _measure(chunk, threshold, mixed=mixed, exact=exact, consensus=consensus))
    n_silent = int(columns["ciou"].isnan().sum())
    listed = data.manifest.expected.get(part, columns.n)
    counts = {"n": columns.n - n_silent, "n_silent": n_silent, "n_listed": listed}
    figures = counts | {name: score.item() for name, score in _summarize(columns, mixed=mixed).items()}
    return PartScores(figures, columns["ciou"], columns["area"], columns["size"], columns["peak"])


def score_detection(parts: Iterable[Maps], threshold: float) -> dict[str, float]:
    """``ap`` and ``max_f1`` over the rows of several parts together, silent ones as negatives.

    SLAVC's extended protocol (`avsl.metrics.ExtendedScore`) on the confidence itself, with masks cut at the fixed
    threshold.
    """
    measured = []
    for maps in parts:
        columns = _Columns(len(maps.rows))
        for chunk in maps.chunks():
            smooth = F.resize_as(chunk.confidence, chunk.size, "fixed")
            ciou = F.ciou(F.binarize(smooth, "fixed", threshold), chunk.truth)
            columns.put(chunk.rows, {"ciou": ciou, "confidence": D.top_quarter_mean(smooth)})
        measured.append(columns)
    confidence, ciou = (torch.cat([columns[name] for columns in measured]) for name in ("confidence", "ciou"))
    return {"ap": float(D.average_precision(confidence, ciou)), "max_f1": float(D.max_f1(confidence, ciou))}


def break_down(scores: PartScores, labels: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """CIoU@0.5 at the fixed threshold by kinds of rows; silent rows are left out.

    Args:
        scores: a part's.
        labels: each row's class; empty where not known.

    Returns:
        ``by_size``: ``n`` and ``ciou`` by the source's share of the frame (`avsl.functional.localization.area_bucket`);
        ``by_class``: the same by class, where classes are known. Kinds without a row are left out.
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


def baselines(maps: Maps) -> dict[str, dict[str, float]]:
    """What needs no model, on the truth of some maps: the whole image, a centered disc, a perfect ranking of pixels.

    Each under the median convention; the first two at a fixed threshold too, where a perfect ranking means nothing.
    Silent rows are left out.
    """
    columns = _Columns(len(maps.rows))
    for chunk in maps.chunks():
        measured: dict[str, Tensor] = {}
        for name, trivial in F.trivial_maps(chunk.truth).items():
            masks = F.predict_masks(trivial, chunk.truth, {"median": None, "fixed": 0.5})
            measured |= {
                f"{name}_median": F.ciou(masks["median"], chunk.truth),
                name: F.ciou(masks["fixed"], chunk.truth),
            }
        columns.put(chunk.rows, measured)
    found: dict[str, dict[str, float]] = {}
    for name in ("whole_image", "centered_disc", "perfect_ranking"):
        found[name] = {}
        for suffix in ("_median",) if name == "perfect_ranking" else ("_median", ""):
            scores = columns[name + suffix]
            summary = F.summarize(scores[~scores.isnan()])
            found[name] |= {key + suffix: float(value) for key, value in summary.items()}
    return found


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        figures: threshold, one entry for each part (``test`` broken down too; with silent rows the figures of
            `score_detection`, those of ``test_offscreen`` together with ``test``; other test parts with sources in view
            hold their ``baselines``), one for each member on its own, the baselines of ``test`` (empty where all of it
            is silent), and ``ogl``: None, or the threshold and parts once more with an object prior.
        table: CSV with a line for each test row.
        validation: the validation rows' maps.
        validation_ciou: (N,) float64, what they score at the fixed threshold; NaN on silent rows.
    """

    figures: dict[str, Any]
    table: str
    validation: Maps
    validation_ciou: Tensor


def score_model(
    members: Sequence[nn.Module],
    reader: RowReader,
    parts: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    prior: ObjectPrior | None = None,
) -> Evaluation:
    """Score a model.

    Args:
        members: localizers whose confidences are averaged, in evaluation mode.
        reader: of the prepared data.
        parts: row numbers by part; ``validation`` chooses the threshold, the others are test parts.
        batch_size: rows the model sees at a time.
        prior: scored with the model beside the model alone, with a threshold chosen for the two.
    """
    # One part is enough to see whether a model listens.
    computed = {p: compute_maps(members, reader, rows, batch_size, shuffle=p == "test") for p, rows in parts.items()}
    threshold = choose_threshold(computed["validation"])
    scores = {part: score_part(part, maps, threshold) for part, maps in computed.items()}
    figures: dict[str, Any] = {"metric": METRIC, "threshold": threshold}
    figures |= {part: found.figures | _detection(part, scores, computed, threshold) for part, found in scores.items()}
    for k in range(len(members) if len(members) > 1 else 0):
        alone = {part: maps.member(k) for part, maps in computed.items() if part in ("validation", "test")}
        own = choose_threshold(alone["validation"])
        scored = {part: score_part(part, maps, own).figures for part, maps in alone.items()}
        figures[f"member_{k}"] = {"threshold": own} | scored
    for part, rows in parts.items():
        known = baselines(computed[part]) if part != "validation" and figures[part]["n"] else {}
        if part == "test":
            figures[part] |= break_down(scores[part], [str(reader.data.labels[row]) for row in rows])
            figures["baselines"] = known
        elif known:
            figures[part]["baselines"] = known
    figures["ogl"] = None
    if prior is not None:
        guided = {part: guide(maps, prior, batch_size) for part, maps in computed.items()}
        own = choose_threshold(guided["validation"])
        scored = {part: score_part(part, maps, own).figures for part, maps in guided.items()}
        figures["ogl"] = prior.config.model_dump(mode="json") | {"threshold": own} | scored
    tests = {part: found for part, found in scores.items() if part != "validation"}
    table = _table(reader.data, parts, tests)
    return Evaluation(figures, table, computed["validation"], scores["validation"].ciou)


def _detection(
    part: str, scores: Mapping[str, PartScores], computed: Mapping[str, Maps], threshold: float
) -> dict[str, float]:
    """The figures of `score_detection` of a part with silent rows; those of ``test_offscreen`` need other rows too."""
    if not scores[part].figures["n_silent"]:
        return {}
    together = ("test", part) if part == "test_offscreen" and "test" in computed else (part,)
    if not any(scores[name].figures["n"] for name in together):
        return {}
    return score_detection((computed[name] for name in together), threshold)


def _table(data: PreparedData, parts: Mapping[str, NDArray[np.int64]], scores: Mapping[str, PartScores]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sample_id", "recording", "part", "label", "area", "ciou", "max_confidence"])
    for part, found in scores.items():
        columns = zip(parts[part], found.area.tolist(), found.ciou.tolist(), found.peak.tolist(), strict=True)
        for row, area, ciou, peak in columns:
            shown = f"{ciou:.4f}" if area > 0 else ""
            of = (data.sample_ids[row], data.source_ids[row], part, data.labels[row])
            writer.writerow([*of, f"{area:.4f}", shown, f"{peak:.4f}"])
    return out.getvalue()
