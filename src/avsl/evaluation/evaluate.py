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
    """What an evaluation found.

    Attributes:
        figures: threshold, one entry for each part (``test`` broken down too, with `boxed_controls`; with silent rows
            the figures of `score_detection`, those of ``test_offscreen`` together with ``test``; other test parts with
            sources in view hold their ``baselines``), one for each member on its own, the baselines of ``test`` (empty
            where all of it is silent), `caveats` of ``test``, and ``ogl``: None, or the threshold and parts once more
            with an object prior.
        table: CSV with a line for each test row.
        validation: the validation rows' maps; the test rows' where no validation row was scored.
        validation_ciou: (N,) float64, what they score, each at the threshold that the other half of the recordings
            chooses; NaN on silent rows.
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
    *,
    threshold: float | None = None,
) -> Evaluation:
    """Score a model.

    Args:
        members: localizers whose confidences are averaged, in evaluation mode.
        reader: of the prepared data.
        parts: row numbers by part; ``validation`` chooses the threshold, the others are test parts. With ``threshold``
            there is no ``validation``.
        batch_size: rows the model sees at a time.
        prior: scored with the model beside the model alone, with a threshold chosen for the two.
        threshold: the fixed one, where it was chosen on another data set; localizers are not scored alone then, as
            they have other thresholds.
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
    shown = "validation" if "validation" in parts else "test"
    return Evaluation(figures, table, computed[shown], scores[shown].ciou)


def _score_parts(computed: Mapping[str, Maps]) -> tuple[dict[str, PartScores], float]:
    """The scores of each part and the fixed threshold: of test parts at it, of validation cross-fitted."""
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


def caveats(ciou: Tensor, disc: Tensor, recordings: Sequence[str]) -> list[str]:
    """What a reader of a test score must know: it does not differ from the centered disc's, or rests on few clips.

    Args:
        ciou: (N,) cIoU of a model; NaN on silent rows.
        disc: (N,) that of the centered disc.
        recordings: (N,) the recording of each row.

    Returns:
        A sentence for each caveat; none where no row has a source in view.
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
