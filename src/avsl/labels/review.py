"""`avsl labels review`: a page of the annotations that look wrong, the worst first."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from avsl.config.compose import compose
from avsl.console import progress_bar
from avsl.data.annotation_files import as_boxes
from avsl.data.index import Entry
from avsl.errors import DataError
from avsl.files import write_text
from avsl.functional.boxes import box_mask
from avsl.inference.predictor import Predictor
from avsl.labels.clips import ClipFolder
from avsl.registry.load import exported_model
from avsl.report.page import Picture, Section, Table, embed_image, render
from avsl.schema import ConfigError
from avsl.viz.overlay import overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_SAMPLE_RATE = 16000
_GRID = 256
_TINY, _WHOLE = 0.002, 0.95
# Below this IoU the masks of boxes and model disagree.
_STRONG = 0.5
_WIDTH = 480


@dataclass(frozen=True)
class Finding:
    """An annotation that looks wrong.

    Attributes:
        clip: its name.
        part: of the data set.
        score: the model's disagreement in [0, 1], and 1 for every other reason.
        reasons: sentences.
        picture: the frame with the boxes in white, and the model's map and boxes in cyan; not compared.
    """

    clip: str
    part: str
    score: float
    reasons: Sequence[str]
    picture: Image.Image = field(compare=False, repr=False)


def review(overrides: Sequence[str] = (), model: str | None = None, worst: int = 60) -> Path:
    """Write ``outputs/folder/labels/review.html``.

    An annotation looks wrong where a box is tiny or is the whole frame, where the sound is silent or broken, and where
    a model's mask shares less than half with the boxes: IoU below 0.5, or one of the two says that nothing in view
    sounds.

    Args:
        overrides: changes to params.yaml, as ``data=folder``.
        model: a folder or a ``models:/`` address; None looks without one.
        worst: how many are shown; the table names all.

    Returns:
        The page.

    Raises:
        ConfigError: a setting is wrong.
        DataError: nothing is annotated, or the folder cannot be used.
    """
    if worst < 1:
        raise ConfigError(f"--worst {worst}: at least one annotation is shown")
    config = compose(overrides)
    folder = ClipFolder.open(config)
    annotated = [clip for clip in folder.clips.values() if clip.annotated]
    if not annotated:
        raise DataError(f"{folder.annotations}: nothing is annotated yet")
    if model is None:
        findings, source = _look(folder, annotated, None), ""
    else:
        with exported_model(model, config) as (path, source):
            findings = _look(folder, annotated, Predictor.load(path))
    path = config.root / config.data.name / "labels" / "review.html"
    write_text(path, _page(findings, len(annotated), source, worst))
    print(f"{len(findings)} of {len(annotated)} annotations look wrong: {path}")
    print("next:", shlex.join(["avsl", "labels", "forecast", *overrides, "--probe"]))
    return path


def _look(folder: ClipFolder, clips: Sequence[Entry], predictor: Predictor | None) -> list[Finding]:
    found = []
    with progress_bar("annotations", len(clips)) as bar:
        for clip in clips:
            try:
                if (finding := _examine(folder, clip, predictor)) is not None:
                    found.append(finding)
            except DataError as error:
                log.warning("left out: %s", error)
            bar.advance()
    return sorted(found, key=lambda finding: (-finding.score, finding.clip))


def _examine(folder: ClipFolder, clip: Entry, predictor: Predictor | None) -> Finding | None:
    """Check one annotation; returns None if nothing looks wrong."""
    frame = folder.read_frame(clip)
    height, width = frame.shape[:2]
    boxes = as_boxes([]) if clip.boxes is None else clip.boxes / ((width, height) * 2 if clip.in_pixels else 1.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    reasons = [f"a box covers {100 * area:.3g} % of the frame" for area in areas if not _TINY <= area <= _WHOLE]
    score, heat, drawn = float(len(reasons)), None, as_boxes([])
    rate, duration = (_SAMPLE_RATE, None) if predictor is None else (predictor.sample_rate, predictor.duration_s)
    try:
        sound = folder.read_sound(clip, rate, duration)
    except DataError as error:
        reasons.append(str(error))
        score += 1
    else:
        if predictor is not None:
            (seen,) = predictor.predict([frame], [sound])
            heat = seen.map
            if heat.max() >= predictor.presence:
                drawn = as_boxes([box[:4] for box in seen.boxes])
            doubt, reason = _disagreement(boxes, drawn, heat, predictor.threshold)
            if doubt > _STRONG:
                score += doubt
                reasons.append(reason)
    if not reasons:
        return None
    small = Image.fromarray(frame).resize((_WIDTH, max(1, round(height * _WIDTH / width))))
    shown = np.zeros((2, 2), np.float32) if heat is None else heat
    return Finding(
        clip.sample_id, clip.part, score, reasons, Image.fromarray(overlay(np.asarray(small), shown, drawn, boxes))
    )


def _disagreement(
    boxes: NDArray[np.float64], drawn: NDArray[np.float64], heat: NDArray[np.float32], threshold: float
) -> tuple[float, str]:
    """1 − IoU of the boxes and the model's mask, 0 where both see nothing; and a sentence."""
    if not len(drawn):
        return float(len(boxes) > 0), "the model finds nothing that sounds"
    if not len(boxes):
        return 1.0, "nothing in view is said to sound, but the model finds something"
    resized = Image.fromarray(heat).resize((_GRID, _GRID), Image.Resampling.BILINEAR)
    marked, truth = np.asarray(resized) >= threshold, box_mask(boxes, _GRID)
    iou = float((marked & truth).sum() / max(1, (marked | truth).sum()))
    return 1 - iou, f"boxes and model overlap by {iou:.2f} (IoU)"


def _page(findings: Sequence[Finding], n: int, model: str, worst: int) -> str:
    lead = [
        f"{len(findings)} of {n} annotations look wrong"
        + (f", by the boxes themselves and by the model {model}." if model else ", by the boxes themselves."),
        "White: annotated boxes; cyan, and from violet to yellow: what the model finds. A model may be wrong where it "
        "disagrees, and boxes of test clips that are corrected because of a model favor that model.",
    ]
    pictures = [
        Picture(
            embed_image(finding.picture),
            f"{finding.clip} ({finding.part})",
            f"The annotated frame of {finding.clip}",
            "; ".join(finding.reasons),
        )
        for finding in findings[:worst]
    ]
    rows = [(one.clip, one.part, f"{one.score:.2f}", "; ".join(one.reasons)) for one in findings]
    columns = ("clip", "part", "score", "reasons")
    table = Table("All of them, the worst first", columns, rows, text=frozenset(columns) - {"score"})
    sections = [Section("The worst", pictures=pictures), Section("All", tables=[table])] if rows else []
    return render("Annotations that look wrong", lead, sections)
