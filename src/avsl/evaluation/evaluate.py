"""Scores of a model on validation and test, with the baselines and controls that give them meaning."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.evaluation.maps import Maps, compute_maps, guide
from avsl.evaluation.scoring import (
    GIVEN_METRIC,
    METRIC,
    PartScores,
    baselines,
    boxed_controls,
    break_down,
    control_sounds,
    score_detection,
    score_part,
)
from avsl.evaluation.thresholds import choose_thresholds
from avsl.models import ObjectPrior
from avsl.statistics import bootstrap_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Below so many recordings a 95 % interval of a share spans some 36 points.
FEW_RECORDINGS = 30


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        figures: ``metric``, ``threshold``, the scores of each part and of each member alone, ``baselines`` and
            ``caveats`` of the part ``test``, and ``ogl``: the threshold and scores with an object prior, or None.
            Parts with silent rows have the figures of `score_detection`; ``test`` has breakdowns and
            `boxed_controls`; other test parts have ``baselines``.
        table: CSV with a line for each test row.
        maps: the maps of each part.
        validation_ciou: (N,) float64 cIoU of the validation rows, each at the threshold chosen on the other half of the
            recordings; NaN on silent rows. None if validation was not scored.
    """

    figures: dict[str, Any]
    table: str
    maps: Mapping[str, Maps]
    validation_ciou: Tensor | None


def score_model(
    members: Sequence[nn.Module],
    reader: RowReader,
    parts: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    prior: ObjectPrior | None = None,
    *,
    threshold: float | None = None,
) -> Evaluation:
    """Score a model.

    Args:
        members: localizers whose confidences are averaged, in evaluation mode.
        reader: of the prepared data.
        parts: row numbers by part: test parts, and ``validation``, which chooses the threshold if none is given.
        batch_size: number of rows in a batch.
        prior: an object prior; the model is scored with and without it, each with its own threshold.
        threshold: fixed threshold that was chosen on another data set. The members are then not scored alone, because
            their thresholds differ.
    """
    # One part is enough to see whether a model listens.
    controls = control_sounds(reader.data)
    computed = {
        part: compute_maps(
            members, reader, rows, batch_size, shuffle=part == "test", controls=controls if part == "test" else None
        )
        for part, rows in parts.items()
    }
    if threshold is None:
        metric = METRIC
        scores, threshold = _score_parts(computed)
        singles = range(len(members) if len(members) > 1 else 0)
    else:
        metric, singles = GIVEN_METRIC, range(0)
        scores = {part: score_part(part, maps, threshold) for part, maps in computed.items()}
    figures: dict[str, Any] = {"metric": metric, "threshold": threshold}
    figures |= {part: found.figures | _detection(part, scores, computed, threshold) for part, found in scores.items()}
    for k in singles:
        alone = {part: maps.member(k) for part, maps in computed.items() if part in ("validation", "test")}
        own, cut = _score_parts(alone)
        figures[f"member_{k}"] = {"threshold": cut} | {part: found.figures for part, found in own.items()}
    for part, rows in parts.items():
        scored_here = part != "validation" and figures[part]["n"]
        trivial = baselines(computed[part]) if scored_here else None
        known = trivial.figures if trivial else {}
        if part == "test":
            figures[part] |= boxed_controls(computed[part], threshold)
            if trivial:
                recordings = [str(reader.data.source_ids[row]) for row in rows]
                figures["caveats"] = caveats(scores[part].ciou, trivial.disc, recordings)
            figures[part] |= break_down(scores[part], [str(reader.data.labels[row]) for row in rows])
            figures["baselines"] = known
        elif known:
            figures[part]["baselines"] = known
    figures["ogl"] = None
    if prior is not None:
        guided = {part: guide(maps, prior, batch_size) for part, maps in computed.items()}
        own, cut = _score_parts(guided)
        scored = {part: found.figures for part, found in own.items()}
        figures["ogl"] = prior.config.model_dump(mode="json") | {"threshold": cut} | scored
    tests = {part: found for part, found in scores.items() if part != "validation"}
    table = _table(reader.data, parts, tests)
    return Evaluation(figures, table, computed, scores["validation"].ciou if "validation" in scores else None)


def _score_parts(computed: Mapping[str, Maps]) -> tuple[dict[str, PartScores], float]:
    """Score the test parts at the fixed threshold and validation cross-fitted; returns the scores and the threshold."""
    thresholds = choose_thresholds(computed["validation"])
    scores = {
        part: score_part(part, maps, thresholds.fixed, thresholds.rows if part == "validation" else None)
        for part, maps in computed.items()
    }
    scores["validation"].figures["cross_fitted"] = thresholds.cross_fitted
    return scores, thresholds.fixed


def _detection(
    part: str, scores: Mapping[str, PartScores], computed: Mapping[str, Maps], threshold: float
) -> dict[str, float]:
    """Score the detection in a part with silent rows; ``test_offscreen`` is scored together with ``test``."""
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


def caveats(ciou: Tensor, disc: Tensor, recordings: Sequence[str]) -> list[str]:
    """Warn of a test score that does not differ from the centered disc's or rests on few clips.

    Args:
        ciou: (N,) cIoU of a model; NaN on silent rows.
        disc: (N,) cIoU of the centered disc.
        recordings: (N,) recordings of the rows.

    Returns:
        A sentence for each caveat; none if no row has a source in view.
    """
    sounding = ~ciou.isnan()
    kept = [recording for recording, sounds in zip(recordings, sounding.tolist(), strict=True) if sounds]
    found: list[str] = []
    n_recordings = len(set(kept))
    if not kept:
        return found
    if n_recordings < FEW_RECORDINGS:
        found.append(f"test CIoU@0.5 rests on {len(kept)} clips of {n_recordings} recordings: too few to rank models")
    hits = (ciou[sounding] >= 0.5).double() - (disc[sounding] >= 0.5).double()
    low, high = bootstrap_interval(hits.numpy(), kept)
    if low <= 0 <= high:
        found.append(
            f"test CIoU@0.5 does not differ from the centered disc's: the difference is {100 * hits.mean():+.1f}"
            f" points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        )
    elif high < 0:
        found.append(f"test CIoU@0.5 is below the centered disc's by {-100 * hits.mean():.1f} points")
    return found
