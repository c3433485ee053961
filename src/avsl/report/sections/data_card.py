"""What the data set holds, and which rows are labeled."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Final

from avsl.data.prepared.format import PARTS
from avsl.data.prepared.preparation import LEAKS, QUARANTINE
from avsl.data.splits import Split
from avsl.report.comparison import Comparison, format_ratio
from avsl.report.page import Section, Table

_LEFT_OUT: Final = (
    (QUARANTINE, "reason", "Quarantined, listed but missing or unusable"),
    (LEAKS, "part", "Leaks, training rows dropped because they are held out"),
)


def data_card(comparison: Comparison) -> Section:
    """Rows by part, labels by ratio, and what was left out."""
    layout, data = comparison.layout, comparison.data
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
    splits = [
        Split.load(path)
        for ratio in comparison.label_ratios
        for path in sorted((layout.all_splits / str(ratio)).glob("*.json"), key=lambda path: int(path.stem))
    ]
    labels = [
        [format_ratio(split.label_ratio)]
        + [str(len(ids)) for ids in (split.labeled, split.unlabeled, split.validation)]
        + [str(split.seed), split.content_hash]
        for split in splits
    ]
    heads = ("labels", "labeled", "unlabeled", "validation (labels too)", "seed", "split's hash")
    drawn = Table("Labels by ratio and seed", heads, labels, frozenset({"split's hash"}), code=True)
    tables = [parts, drawn]
    paragraphs = [
        f"{manifest.name}: {sum(manifest.counts.values()):,} rows of {len(manifest.classes)} classes, frames of "
        f"{manifest.image_size} by {manifest.image_size} px, {manifest.n_samples_audio / manifest.sample_rate:g} s of "
        f"sound at {manifest.sample_rate:,} Hz. Content hash {manifest.content_hash}.",
    ]
    files = [layout.prepared / name for name, _, _ in _LEFT_OUT]
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
