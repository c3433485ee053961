"""What stages leave for others, typed and versioned: a training's ``run.json``, an evaluation's ``metrics.json``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field

from avsl.data.prepared.format import PARTS
from avsl.errors import DataError
from avsl.files import write_json
from avsl.functional.image import MEAN, STD
from avsl.schema import ConfigError, StrictConfig

log = logging.getLogger(__name__)


class StaleError(DataError):
    """An evaluation that is not of the model beside it."""


class Record(StrictConfig):
    """A JSON file in a stage's folder; ``version`` counts its formats, and others than the present one are refused."""

    FILE: ClassVar[str]
    VERSION: ClassVar[int]
    COMMAND: ClassVar[str]

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether ``folder`` holds such a record."""
        return (folder / cls.FILE).is_file()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the record of ``folder``.

        Raises:
            DataError: it is missing, of another version of the format, or damaged; names the file and the command
                that writes it.
        """
        path = folder / cls.FILE
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path} is missing: run {cls.COMMAND} first") from None
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from None
        version = found.pop("version", 1) if isinstance(found, dict) else None
        if version != cls.VERSION:
            raise DataError(f"{path} has format {version}, expected {cls.VERSION}: run {cls.COMMAND} again")
        try:
            return cls.read(found, "")
        except ConfigError as error:
            raise DataError(f"{path}: {error}") from None

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The record of ``folder``; None where there is none, or, with a warning, none that can be read."""
        if not cls.exists(folder):
            return None
        try:
            return cls.load(folder)
        except DataError as error:
            log.warning("%s", error)
            return None

    def save(self, folder: Path) -> None:
        """Write the record into ``folder``, atomically."""
        values = self.model_dump(mode="json", exclude_none=True)
        write_json(folder / self.FILE, {"version": self.VERSION} | values)


class ValidationScores(StrictConfig):
    """Shares in [0, 1] on the validation part.

    Attributes:
        cross_fitted: whether each row is scored at the threshold that the other half of the recordings chooses, so
            that the scores are none of the rows which the threshold fits; False where there are no two recordings to
            be halved: the scores are too good then.
        ciou: CIoU@0.5.
        ciou_70: CIoU@0.7.
        auc: area under the success rate.
        mean_ciou: mean of the rows' cIoU.
    """

    cross_fitted: bool
    ciou: float
    ciou_70: float
    auc: float
    mean_ciou: float


class RunRecord(Record):
    """How the model beside it was trained.

    Attributes:
        run_id: MLflow's; empty for a trial of a sweep, whose run the sweep opens.
        framework: that trained it.
        objective: below that framework.
        label_ratio: labeled share of the training rows, in (0, 1].
        seed: of weights, data order and augmentation.
        epochs: of the training.
        metric: the name of what ``validation.ciou`` is.
        command: that a person types to repeat it.
        git_commit: checked out when it was trained.
        config_hash: of the configuration, without data and code.
        split_hash: of the split.
        data_hash: of the prepared data set.
        code_hash: of the source that decides a training's result.
        identity: of all that decides the result.
        model_hash: of the exported model, :func:`avsl.models.hashing.hash_model`.
        validation: scores of the exported model; None where no row has boxes.
        threshold_rule: how the model's threshold was chosen: on ``validation``, or by the ``coverage`` of training
            frames where no row has boxes (`avsl.evaluation.thresholds.choose_without_boxes`).
        train_seconds: spent in training, interruptions excluded.
        labeled: training rows with labels.
    """

    FILE = "run.json"
    VERSION = 3
    COMMAND = "`avsl train`"

    run_id: str
    framework: str
    objective: str
    label_ratio: float
    seed: int
    epochs: int
    metric: str
    command: str
    git_commit: str
    config_hash: str
    split_hash: str
    data_hash: str
    code_hash: str
    identity: str
    model_hash: str
    validation: ValidationScores | None = None
    threshold_rule: Literal["validation", "coverage"]
    train_seconds: float
    labeled: int


class KindScores(StrictConfig):
    """CIoU@0.5 over the ``n`` rows of one size or class."""

    n: int
    ciou: float


class PartScores(StrictConfig):
    """Scores of one part of the data; :func:`avsl.evaluation.scoring.score_part` names them.

    Attributes:
        n: rows with a source in view.
        n_silent: rows without one.
        n_listed: rows that the data set's lists name, found or not.
        n_exact: rows whose truth is an exact mask; None for none.
        cross_fitted: of validation, as in :class:`ValidationScores`; None for test parts, which choose no threshold.
        by_size: by the source's share of the frame.
        by_class: by class.
        baselines: what needs no model, by its name.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    n: int
    n_silent: int
    n_listed: int
    n_exact: int | None = None
    cross_fitted: bool | None = None
    by_size: dict[str, KindScores] | None = None
    by_class: dict[str, KindScores] | None = None
    baselines: dict[str, dict[str, float]] | None = None

    @property
    def scores(self) -> Mapping[str, float]:
        """Every score by its name (``ciou``, ``auc_median``, …); ``ciou`` is there where ``n`` is not 0."""
        return self.__pydantic_extra__

    @property
    def counts(self) -> Mapping[str, int]:
        """``n``, ``n_silent``, ``n_listed`` and, where there are exact masks, ``n_exact``."""
        counts = {"n": self.n, "n_silent": self.n_silent, "n_listed": self.n_listed}
        return counts if self.n_exact is None else counts | {"n_exact": self.n_exact}

    @property
    def coverage(self) -> str:
        """How many of the part's listed rows the scores rest on, "4,692 of 5,158"."""
        return f"{self.n + self.n_silent:,} of {self.n_listed:,}"


class MemberScores(StrictConfig):
    """The scores of one averaged localizer alone, at a separate threshold."""

    threshold: float
    validation: PartScores
    test: PartScores


class Scores(MemberScores):
    """A model on all parts of a split but training, at the fixed threshold."""

    test_small: PartScores | None = None
    test_duet: PartScores | None = None
    test_offscreen: PartScores | None = None
    test_swap: PartScores | None = None
    test_unheard: PartScores | None = None

    @property
    def parts(self) -> Mapping[str, PartScores]:
        """The scored parts by name, ``validation`` first."""
        found = ((part, getattr(self, part)) for part in PARTS if part != "train")
        return {part: scores for part, scores in found if scores is not None}

    @property
    def tests(self) -> Mapping[str, PartScores]:
        """The test parts by name, ``test`` first."""
        return {part: scores for part, scores in self.parts.items() if part != "validation"}


class GuidedScores(Scores):
    """A model mixed with an object prior (OGL).

    Attributes:
        weights: of the prior, as :class:`avsl.models.ObjectPriorConfig` has them; so are the following.
        alpha: the model's share in the mixture.
        backbone: of the prior.
        mean: of the channels of the frames that its weights want.
        std: their standard deviation.
    """

    weights: str
    alpha: float
    backbone: str
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


_SUMMARY = (
    ("validation", "ciou"),
    ("test", "ciou"),
    ("test", "auc"),
    ("test", "ciou_shuffled"),
    ("test", "boxed_silence"),
    ("test", "boxed_noise"),
    ("test", "boxed_offscreen"),
)


class Figures(Record, Scores):
    """What an evaluation finds out about any model.

    Attributes:
        metric: the name of what ``validation``'s ``ciou`` is.
        member_0: the first of two localizers alone; None where the model is one.
        member_1: the second.
        baselines: of the part ``test``, what needs no model, by its name; empty where all of it is silent.
        ogl: the scores with an object prior; None where there was none.
        caveats: what a reader of the test score must know, a sentence each.
    """

    FILE = "metrics.json"
    VERSION = 3
    COMMAND = "`avsl evaluate`"

    metric: str
    member_0: MemberScores | None = None
    member_1: MemberScores | None = None
    baselines: dict[str, dict[str, float]]
    ogl: GuidedScores | None = None
    caveats: list[str] = Field(default_factory=list)

    @property
    def members(self) -> list[MemberScores]:
        """The localizers alone, where the model is two."""
        return [member for member in (self.member_0, self.member_1) if member is not None]

    def summary(self) -> dict[str, float]:
        """The scores that people look at first, by part and name; what a data set does not have is left out."""
        named = {part: scores.scores for part, scores in self.parts.items()}
        found = {f"{part}_{name}": named[part][name] for part, name in _SUMMARY if name in named.get(part, {})}
        return {"threshold": self.threshold} | found

    def by_name(self) -> Iterator[tuple[str, float]]:
        """Each number of the test parts, breakdowns by size included, under its keys joined by ``/``."""
        for before, parts in (("", self.tests), ("ogl/", self.ogl.tests if self.ogl else {})):
            for part, scores in parts.items():
                for key, value in {**scores.counts, **scores.scores}.items():
                    yield f"{before}{part}/{key}", value
                for size, found in (scores.by_size or {}).items():
                    yield f"{before}{part}/by_size/{size}/n", found.n
                    yield f"{before}{part}/by_size/{size}/ciou", found.ciou


class EvaluationRecord(Figures):
    """The evaluation of a model that a training left; which model, and which training, it says itself.

    Attributes:
        run_id: the training's, as in its :class:`RunRecord`; so are the following.
        model_hash: of the evaluated model.
        split_hash: of the split it was scored on.
        framework: that trained it.
        objective: below that framework.
        label_ratio: labeled share of the training rows.
        seed: of the training.
        train_seconds: spent in training.
        labeled: training rows with labels.
    """

    run_id: str
    model_hash: str
    split_hash: str
    framework: str
    objective: str
    label_ratio: float
    seed: int
    train_seconds: float
    labeled: int

    @classmethod
    def of(cls, run: RunRecord, figures: Mapping[str, Any]) -> Self:
        """The evaluation that found ``figures`` for the model of ``run``."""
        own = set(cls.model_fields) - set(Figures.model_fields)
        return cls.read(run.model_dump(include=own) | dict(figures), "")


class ImportedRecord(Figures):
    """The evaluation of a published model.

    Attributes:
        method: its name.
    """

    COMMAND = "`avsl import-checkpoint`"

    method: str


class TransferRecord(Figures):
    """The evaluation of a model on another data set than its own.

    Attributes:
        model: its folder or address.
        model_hash: of the evaluated model.
        trained_on: name of the data set it was trained on; empty where that is unknown.
        validation: without a row where the threshold is the model's.
    """

    COMMAND = "`avsl evaluate --model`"

    model: str
    model_hash: str
    trained_on: str
    validation: PartScores = PartScores(n=0, n_silent=0, n_listed=0)


def load_evaluated(trained: Path, evaluation: Path) -> tuple[RunRecord, EvaluationRecord]:
    """Read how a model was trained and how good it is.

    Args:
        trained: what its training left.
        evaluation: what its evaluation left.

    Raises:
        StaleError: the evaluation is of another model or run than the training's.
        DataError: a record is missing or cannot be read.
    """
    run, scores = RunRecord.load(trained), EvaluationRecord.load(evaluation)
    for name in ("model_hash", "run_id", "split_hash"):
        here, there = getattr(run, name), getattr(scores, name)
        if here != there:
            raise StaleError(
                f"{evaluation / scores.FILE} is an evaluation of another model ({name} {there}) than {trained} "
                f"holds ({here}): run `avsl evaluate` again"
            )
    return run, scores
