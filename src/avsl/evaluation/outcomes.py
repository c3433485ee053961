"""Per-sample results of evaluations, and comparisons of methods by them over seeds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avsl.errors import DataError
from avsl.statistics import Pair, Summary, compare_pairs, summarize_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# cIoU from which a sample's source counts as found.
_FOUND = 0.5


@dataclass(frozen=True)
class Outcomes:
    """A model's results on the N samples of a part with a source in view.

    Attributes:
        source: the file it was read from.
        samples: (N,) ids.
        recordings: (N,) recordings of the samples.
        ciou: (N,) cIoU at the fixed threshold.
    """

    source: Path
    samples: Sequence[str]
    recordings: Sequence[str]
    ciou: NDArray[np.float64]

    @property
    def found(self) -> NDArray[np.float64]:
        """(N,) 1 for a cIoU of at least 0.5, else 0; the mean is CIoU@0.5."""
        return (self.ciou >= _FOUND).astype(np.float64)


def read_test(evaluation: Path, part: str = "test") -> Outcomes:
    """Read a test part from the ``per_sample.csv`` of an evaluation's folder.

    Raises:
        DataError: the file is missing.
    """
    path = evaluation / "per_sample.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: run the evaluation again")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == part and row["ciou"]]
    ciou = np.array([float(row["ciou"]) for row in rows])
    return Outcomes(path, [row["sample_id"] for row in rows], [row["recording"] for row in rows], ciou)


def read_validation(evaluation: Path) -> Outcomes:
    """Read the validation part from the ``validation.npz`` of an evaluation's folder.

    Raises:
        DataError: the file is missing, or an earlier version wrote it.
    """
    path = evaluation / "validation.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: run the evaluation again")
    with np.load(path, allow_pickle=False) as stored:
        if "recording" not in stored:
            raise DataError(f"{path} has no 'recording': run the evaluation again")
        samples, recordings, ciou = (stored[name] for name in ("sample_id", "recording", "ciou"))
    sounding = ~np.isnan(ciou)
    return Outcomes(path, samples[sounding].tolist(), recordings[sounding].tolist(), ciou[sounding].astype(np.float64))


def summarize_outcomes(seeds: Mapping[int, Outcomes]) -> Summary:
    """Summarize the CIoU@0.5 of one method over its seeds.

    Raises:
        DataError: the seeds were evaluated on different samples.
    """
    first = _same_samples(list(seeds.values()))
    return summarize_seeds(np.stack([outcomes.found for outcomes in seeds.values()]), first.recordings)


def compare_outcomes(methods: Mapping[str, Mapping[int, Outcomes]]) -> list[Pair]:
    """Compare the CIoU@0.5 of methods, given by name and seed.

    Raises:
        DataError: they were evaluated on different samples.
    """
    everything = [outcomes for seeds in methods.values() for outcomes in seeds.values()]
    if len(methods) < 2:
        return []
    first = _same_samples(everything)
    found = {name: {seed: outcomes.found for seed, outcomes in seeds.items()} for name, seeds in methods.items()}
    return compare_pairs(found, first.recordings)


def _same_samples(everything: Sequence[Outcomes]) -> Outcomes:
    first, *others = everything
    for other in others:
        if other.samples != first.samples:
            raise DataError(f"{other.source} has other samples than {first.source}: run the older evaluation again")
    return first
