"""What the comparison's page shows, from what the stages left; of the test rows it reads scores alone."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avsl.data.prepared.format import PARTS
from avsl.data.prepared.preparation import LEAKS, QUARANTINE
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.errors import DataError
from avsl.records import EvaluationRecord, RunRecord
from avsl.report.page import Picture, Section, Table, embed_figure, embed_image, render
from avsl.viz.curves import plot_curves, plot_label_curve
from avsl.viz.overlay import GalleryRow, gallery

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cell:
    """An evaluated model: a framework over an objective at a label ratio.

    Attributes:
        scores: its evaluation.
        run: its training.
        interval: 95 % interval of test CIoU, in per cent.
        model: its name in tables and figures: the framework, with the objective where there are several.
    """

    scores: EvaluationRecord
    run: RunRecord
    interval: tuple[float, float]
    model: str

    @property
    def label_ratio(self) -> float:
        """In (0, 1]."""
        return self.scores.label_ratio

    @property
    def test_ciou(self) -> float:
        """CIoU@0.5 on the part ``test``, in [0, 1]."""
        return self.scores.test.scores["ciou"]


_EACH: Final = 3
_PARTS: Final = {
    "test": "test",
    "test_small": "small sources",
    "test_duet": "two sources at once",
    "test_offscreen": "no source in view",
    "test_swap": "one frame, several sounds",
    "test_unheard": "classes without labels",
}
_LEFT_OUT: Final = (
    (QUARANTINE, "reason", "Quarantined, listed but missing or unusable"),
    (LEAKS, "part", "Leaks, training rows dropped because they are held out"),
)
_PSEUDO: Final = ("acceptance", "precision", "recall")


def make_page(base: Path, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], lines: Mapping[str, float]) -> str:
    """The page's HTML.

    Args:
        base: the data set's folder of outputs.
        cells: the evaluations, by label ratio, framework and objective.
        rows: of the comparison's table.
        lines: test CIoU in % of what needs no model, by name.

    Raises:
        DataError: what an earlier stage leaves is missing, or evaluations of one ratio differ in their rows.
    """
    data = PreparedData.open(base / "prepared")
    sections = [
        _accuracy(cells, rows, lines),
        _axes(cells, lines),
        _controls(cells),
        _break_downs(cells),
        _training(base, cells),
        _galleries(base, cells, data),
        _data_card(base, cells, data),
        _runs(cells),
    ]
    return render(f"Audio-visual source localization on {data.manifest.name}", [_lead(cells)], sections)


def _lead(cells: Sequence[Cell]) -> str:
    """The best model of each ratio, as the registry chooses it."""
    best: dict[float, Cell] = {}
    for cell in cells:
        held = best.setdefault(cell.label_ratio, cell)
        if cell.scores.validation.scores["ciou"] > held.scores.validation.scores["ciou"]:
            best[cell.label_ratio] = cell
    said = [
        f"{cell.model} at {_labels(cell)}, test CIoU {_percent(cell.test_ciou)} % "
        f"({cell.interval[0]:.1f} to {cell.interval[1]:.1f})"
        for cell in best.values()
    ]
    return f"{len(cells)} models. Best on validation at each share of labels: {'; '.join(said)}."


def read_curves(base: Path, cell: Cell) -> list[dict[str, str]]:
    """The epochs of an evaluation's training, values as they were written; empty where an epoch has none."""
    with (_folder(base, "train", cell) / "curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _folder(base: Path, stage: str, cell: Cell) -> Path:
    return base / stage / str(cell.label_ratio) / f"{cell.scores.framework}-{cell.scores.objective}"


def _labels(cell: Cell) -> str:
    return _share(cell.label_ratio)


def _share(ratio: float) -> str:
    return f"{100 * ratio:g}\N{NO-BREAK SPACE}%"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _models(cells: Iterable[Cell]) -> list[str]:
    """In an order that gives each its color in every figure."""
    return sorted({cell.model for cell in cells})


def _accuracy(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], lines: Mapping[str, float]) -> Section:
    scores: dict[str, dict[float, list[float]]] = {name: {} for name in _models(cells)}
    intervals: dict[str, dict[float, tuple[float, float]]] = {name: {} for name in scores}
    for cell in cells:
        scores[cell.model][cell.label_ratio] = [100 * cell.test_ciou]
        intervals[cell.model][cell.label_ratio] = cell.interval
    figure = plot_label_curve(scores, "test CIoU@0.5, fixed threshold (%)", lines, intervals)
    seeds = ", ".join(sorted({str(cell.scores.seed) for cell in cells}))
    picture = Picture(
        embed_figure(figure),
        "Test CIoU over the labeled share",
        "Curves of test CIoU over the labeled share, one for each model: "
        + "; ".join(
            f"{name} " + ", ".join(f"{of_ratio[ratio][0]:.1f} at {_share(ratio)}" for ratio in sorted(of_ratio))
            for name, of_ratio in scores.items()
        ),
        f"Each point is one training (seed {seeds}). Bars are 95 % intervals over {cells[0].scores.test.n} test rows "
        "(bootstrap); they say nothing of other seeds or splits. Dashed: what needs no model. Points of one ratio "
        "stand side by side.",
    )
    words = frozenset({"objective", "labels", "OGL", "n of N", "CIoU, 95 % interval"})
    table = Table(
        "Test part, per cent; best threshold chosen on validation",
        list(rows[0]),
        [[str(row[key]) for key in rows[0]] for row in rows],
        words & set(rows[0]),
    )
    return Section(
        "Accuracy",
        [
            "CIoU is the share of test rows whose map overlaps the annotated boxes with a cIoU of at least 0.5, at one "
            "fixed threshold on the absolute confidence. The median convention takes the most confident half of the "
            "pixels, as EZ-VSL and FNAC do; the oracle is told the true area and selects nothing. OGL mixes in an "
            "object prior, whatever is heard.",
        ],
        [picture],
        [table],
    )


def _ceiling(cells: Sequence[Cell]) -> float:
    """The best test CIoU with all labels; 0 where there is none."""
    return max((cell.test_ciou for cell in cells if cell.label_ratio == 1), default=0.0)


def _axes(cells: Sequence[Cell], lines: Mapping[str, float]) -> Section:
    """Frameworks down, objectives across, a table for each label ratio."""
    objectives = sorted({cell.scores.objective for cell in cells})
    aside = [[name, *[f"{value:.1f}"] * len(objectives)] for name, value in lines.items()]
    if ceiling := _ceiling(cells):
        aside.append(["the best with all labels", *[_percent(ceiling)] * len(objectives)])
    tables = []
    for ratio in sorted({cell.label_ratio for cell in cells}):
        found = {(c.scores.framework, c.scores.objective): c for c in cells if c.label_ratio == ratio}
        rows = [
            [framework, *(_with_interval(found.get((framework, objective))) for objective in objectives)]
            for framework in sorted({framework for framework, _ in found})
        ]
        columns = ("framework", *objectives)
        tables.append(Table(f"Test CIoU at {_share(ratio)} labels, per cent", columns, rows + aside))
    return Section(
        "Frameworks and objectives",
        ["What learns from the labels, down, over what learns from the unlabeled clips, across; 95 % intervals."],
        tables=tables,
    )


def _with_interval(cell: Cell | None) -> str:
    if cell is None:
        return ""
    low, high = cell.interval
    return f"{_percent(cell.test_ciou)} ({low:.1f} to {high:.1f})"


def _controls(cells: Sequence[Cell]) -> Section:
    ceiling = _ceiling(cells)
    rows = []
    for cell in cells:
        alone = [member.test.scores["ciou"] for member in cell.scores.members]
        shuffled = cell.scores.test.scores.get("ciou_shuffled")
        rows.append(
            [
                cell.model,
                _labels(cell),
                _percent(cell.test_ciou),
                _percent(shuffled),
                "" if shuffled is None else f"{100 * (cell.test_ciou - shuffled):+.1f}",
                _percent(max(alone, default=None)),
                f"{100 * cell.test_ciou / ceiling:.0f} %" if ceiling else "",
            ]
        )
    columns = ("model", "labels", "CIoU", "sounds shuffled", "owed to the sound", "better member alone", "of ceiling")
    return Section(
        "Controls and ceiling",
        [
            "With shuffled sounds every frame hears another row's: what a model keeps then, it sees without listening. "
            "A framework with two students is scored as the mean of their maps; beside it, the better of the two "
            "alone. The ceiling is the model trained with all labels.",
        ],
        tables=[Table("Test CIoU, per cent", columns, rows, frozenset({"labels"}))],
    )


def _break_downs(cells: Sequence[Cell]) -> Section:
    def table(
        caption: str,
        kinds: Iterable[str],
        figures: Callable[[Cell], Mapping[str, Mapping[str, float]]],
        *,
        folded: bool = False,
    ) -> Table:
        """Kinds of rows down, models across."""
        rows = []
        for kind in kinds:
            of_kind = [figures(cell).get(kind, {}) for cell in cells]
            for key, what in (("ciou", ""), ("iiou", ", IIoU"), ("false_positive_rate", ", false positives")):
                if any(key in found for found in of_kind):
                    count = "n_silent" if key == "false_positive_rate" else "n"
                    n = next(str(found[count]) for found in of_kind if key in found)
                    named = _PARTS.get(kind, kind) + what
                    rows.append([named, n, *(_percent(found.get(key)) for found in of_kind)])
        models = [f"{cell.model} {_labels(cell)}" for cell in cells]
        return Table(caption, ["rows", "n", *models], rows, folded=folded)

    def parts(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {part: {**found.counts, **found.scores} for part, found in cell.scores.parts.items()}

    def by_size(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {size: found.model_dump() for size, found in (cell.scores.test.by_size or {}).items()}

    def by_class(cell: Cell) -> Mapping[str, Mapping[str, float]]:
        return {name: found.model_dump() for name, found in (cell.scores.test.by_class or {}).items()}

    sizes = list(dict.fromkeys(kind for cell in cells for kind in by_size(cell)))
    classes = sorted({kind for cell in cells for kind in by_class(cell)})
    return Section(
        "Where it works and where not",
        [
            "CIoU, per cent, at the same threshold everywhere. IIoU counts a frame only if every one of its sounds is "
            "found. False positives are rows without a source in view where something is marked all the same: the "
            "lower the better.",
        ],
        tables=[
            table("By test part", PARTS, parts),
            table("By size of the source, test part", sizes, by_size),
            table(f"By class, test part ({len(classes)} classes)", classes, by_class, folded=True),
        ],
    )


def _training(base: Path, cells: Sequence[Cell]) -> Section:
    models = _models(cells)
    panels: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {"val": {}, "pseudo": {}}
    for cell in cells:
        lines = read_curves(base, cell)
        wanted = [("val", "ciou", f"validation CIoU, {_labels(cell)}")]
        wanted += [("pseudo", name, f"{name}, {_labels(cell)}") for name in _PSEUDO]
        for kind, name, title in wanted:
            key = f"{kind}/{name}"
            points = [(float(line["epoch"]), 100 * float(line[key])) for line in lines if line.get(key)]
            if points:
                # Every model in every panel, so that each keeps its color.
                panel = panels[kind].setdefault(title, {model: [] for model in models})
                panel[cell.model] = points
    pictures = [
        Picture(
            embed_figure(plot_curves(panels["val"])),
            "Validation over the epochs",
            f"Curves of validation CIoU over the epochs, a panel for each of {len(panels['val'])} label ratios.",
            "Validation CIoU at the best threshold of the epoch, per cent, over the epochs.",
        )
    ]
    if panels["pseudo"]:
        pictures.append(
            Picture(
                embed_figure(plot_curves(panels["pseudo"])),
                "Quality of the pseudo-labels",
                "Curves of the pseudo-labels' acceptance, precision and recall over the epochs, by label ratio.",
                "Pseudo-labels over the epochs, per cent: rows accepted, and of the accepted rows' pixels the "
                "precision and the recall against boxes that training never sees.",
            )
        )
    return Section("Training", [], pictures)


def _galleries(base: Path, cells: Sequence[Cell], data: PreparedData) -> Section:
    pictures = []
    position = {sample: row for row, sample in enumerate(data.sample_ids)}
    for ratio in sorted({cell.label_ratio for cell in cells}):
        of_ratio = [cell for cell in cells if cell.label_ratio == ratio]
        maps = {cell.model: _read_maps(base, cell) for cell in of_ratio}
        ids, _, _ = next(iter(maps.values()))
        for model, (others, _, _) in maps.items():
            if others != ids:
                raise DataError(f"{base}: at {ratio} '{model}' was evaluated on other validation rows: run it again")
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
                    f"{_share(ratio)} labels",
                    f"{len(rows)} validation frames, each with its annotated boxes and the confidence maps of "
                    f"{', '.join(maps)} trained with {_share(ratio)} labels.",
                    "Columns: the frame, the annotated boxes, and each model's confidence over the frame (absolute: "
                    "dark violet from 0 through orange to yellow at 1); white: annotated boxes.",
                )
            )
    return Section(
        "Pictures",
        [
            f"Chosen by rule: the validation rows with a source in view, ranked by the mean cIoU over the models of "
            f"one label ratio; the {_EACH} best, the {_EACH} around the median and the {_EACH} worst. No test row is "
            "shown.",
        ],
        pictures,
    )


def _read_maps(base: Path, cell: Cell) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Sample ids, (N, h, w) confidences and cIoU of validation."""
    path = _folder(base, "evaluate", cell) / "validation.npz"
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


def _data_card(base: Path, cells: Sequence[Cell], data: PreparedData) -> Section:
    manifest = data.manifest
    listed = manifest.expected or manifest.counts
    annotated = Counter(data.parts[data.annotated].tolist())
    parts = Table(
        "Rows by part",
        ("part", "listed", "prepared", "dropped", "annotated"),
        [
            [part, *map(str, (listed[part], held, listed[part] - held, annotated[part]))]
            for part, held in ((part, manifest.counts.get(part, 0)) for part in PARTS if part in listed)
        ],
    )
    splits = [Split.load(base / "split" / f"{float(ratio)}.json") for ratio in sorted({c.label_ratio for c in cells})]
    labels = [
        [_share(split.label_ratio)]
        + [str(len(ids)) for ids in (split.labeled, split.unlabeled, split.validation)]
        + [str(split.seed), split.content_hash]
        for split in splits
    ]
    heads = ("labels", "labeled", "unlabeled", "validation (labels too)", "seed", "split's hash")
    drawn = Table("Labels by ratio", heads, labels, frozenset({"split's hash"}), code=True)
    tables = [parts, drawn]
    paragraphs = [
        f"{manifest.name}: {sum(manifest.counts.values()):,} rows of {len(manifest.classes)} classes, frames of "
        f"{manifest.image_size} by {manifest.image_size} px, {manifest.n_samples_audio / manifest.sample_rate:g} s of "
        f"sound at {manifest.sample_rate:,} Hz. Content hash {manifest.content_hash}.",
    ]
    files = [base / "prepared" / name for name, _, _ in _LEFT_OUT]
    if not any(path.is_file() for path in files):
        paragraphs.append("The set is generated: no list names its rows, so none is missing, quarantined or leaked.")
    for path, (name, column, title) in zip(files, _LEFT_OUT, strict=True):
        if path.is_file():
            with path.open(newline="") as file:
                counts = Counter(line[column] for line in csv.DictReader(file))
            paragraphs.append(f"{title}: {counts.total()} rows ({name}).")
            rows = [[key, str(n)] for key, n in counts.most_common()]
            tables.append(Table(f"{title}, by {column}", (column, "rows"), rows, folded=True))
    settings = [[key, str(value)] for key, value in manifest.settings.items()]
    tables.append(Table("Settings of the set", ("key", "value"), settings, frozenset({"value"}), folded=True))
    return Section("Data", paragraphs, tables=tables)


def _runs(cells: Sequence[Cell]) -> Section:
    named = {
        "command": "command",
        "config_hash": "configuration",
        "split_hash": "split",
        "data_hash": "data",
        "code_hash": "code",
        "git_commit": "git commit",
        "model_hash": "model",
        "run_id": "MLflow run",
    }
    tables = [
        Table(
            f"{cell.model}, {_labels(cell)} labels",
            ("what", "value"),
            [[title, str(getattr(cell.run, key))] for key, title in named.items()],
            frozenset({"value"}),
            code=True,
            folded=True,
        )
        for cell in cells
    ]
    return Section(
        "How each model was made",
        [
            "Commands, and SHA-256 hashes of all that decides a training: configuration, split, prepared data and "
            "code, in that order; the commit is of the checkout that trained. The whole configuration lies beside the "
            "model, in train/<labels>/<framework>-<objective>/config.yaml.",
        ],
        tables=tables,
    )
