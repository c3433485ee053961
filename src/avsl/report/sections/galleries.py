"""Validation frames under the maps of every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avsl.errors import DataError
from avsl.report.comparison import Comparison, format_ratio
from avsl.report.page import Picture, Section, embed_image
from avsl.viz.overlay import GalleryRow, gallery

if TYPE_CHECKING:
    from numpy.typing import NDArray


_EACH: Final = 3


def galleries(comparison: Comparison) -> Section:
    """The best, the median and the worst validation frames of each label ratio under every model's map."""
    data = comparison.data
    pictures = []
    position = {sample: row for row, sample in enumerate(data.sample_ids)}
    for ratio in comparison.label_ratios:
        of_ratio = [cell for cell in comparison.cells if cell.label_ratio == ratio]
        maps = {cell.model: _read_maps(cell.best.evaluation) for cell in of_ratio}
        ids, _, _ = next(iter(maps.values()))
        for model, (others, _, _) in maps.items():
            if others != ids:
                raise DataError(
                    f"{comparison.layout.base}: at {ratio} '{model}' was evaluated on other validation rows: "
                    "run it again"
                )
        scores = np.stack([ciou for _, _, ciou in maps.values()])
        rows = []
        for name, k in _chosen(scores.mean(axis=0)):
            number = position[ids[k]]
            boxes = data.boxes(number)
            each = ", ".join(f"{model} {100 * ciou[k]:.0f}" for model, (_, _, ciou) in maps.items())
            rows.append(
                GalleryRow(
                    frame=data.frames(np.array([number]))[0],
                    truth=np.zeros((0, 4), np.float32) if boxes is None else boxes,
                    maps={model: confidence[k] for model, (_, confidence, _) in maps.items()},
                    caption=f"{name} · {data.labels[number]} · cIoU {each} · {ids[k]}",
                )
            )
        if rows:
            pictures.append(
                Picture(
                    embed_image(gallery(rows)),
                    f"{format_ratio(ratio)} labels",
                    f"{len(rows)} validation frames, each with its annotated boxes and the confidence maps of "
                    f"{', '.join(maps)} trained with {format_ratio(ratio)} labels.",
                    "Columns: the frame, the annotated boxes, and each model's confidence over the frame (absolute: "
                    "dark violet from 0 through orange to yellow at 1); white: annotated boxes.",
                )
            )
    return Section(
        "Pictures",
        [
            "Chosen by rule: the validation rows with a source in view, ranked by the mean cIoU over the models of one "
            f"label ratio, each with its best seed on validation; the {_EACH} best, the {_EACH} around the median and "
            f"the {_EACH} worst. No test row is shown.",
        ],
        pictures,
    )


def _read_maps(folder: Path) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Sample ids, (N, h, w) confidences and cIoU of validation."""
    path = folder / "validation.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: run the evaluation again")
    with np.load(path, allow_pickle=False) as stored:
        return stored["sample_id"].tolist(), stored["confidence"].astype(np.float32), stored["ciou"]


def _chosen(scores: NDArray[np.floating[Any]]) -> list[tuple[str, int]]:
    """``best``, ``median`` and ``worst`` rows by falling score, none twice; NaN has no rank, ties go by number."""
    order = np.argsort(-scores, kind="stable")
    order = order[: np.count_nonzero(~np.isnan(scores))]
    middle = max(0, (len(order) - _EACH) // 2)
    names: dict[int, str] = {}
    for name, part in (
        ("best", order[:_EACH]),
        ("median", order[middle : middle + _EACH]),
        ("worst", order[-_EACH:]),
    ):
        for row in part.tolist():
            names.setdefault(row, name)
    return [(name, row) for row, name in names.items()]
