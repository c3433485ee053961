"""Localization scores gathered over batches and processes; the arithmetic is in `avsl.functional.localization`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avsl.functional import localization as F

CANDIDATE_THRESHOLDS: Final = tuple(step / 100 for step in range(1, 100))
"""What `ThresholdSweep` tries: 0.01, 0.02, …, 0.99."""


def validate(maps: Tensor, truth: Tensor, *, silent: bool = False) -> None:
    """Refuse what cannot be scored.

    Args:
        maps: (B, h, w).
        truth: (B, H, W).
        silent: whether a truth may be empty.

    Raises:
        ValueError: shapes do not pair up, a map is not finite, or a truth is empty where it must not be.
    """
    if maps.ndim != 3 or truth.ndim != 3 or len(maps) != len(truth):
        raise ValueError(
            f"maps (B, h, w) and truth (B, H, W) must pair up, got {tuple(maps.shape)} and {tuple(truth.shape)}"
        )
    _refuse_infinite(maps)
    if silent:
        return
    empty = F.count(truth) == 0
    if bool(empty.any()):
        raise ValueError(
            f"cIoU is not defined for the empty truth of row {int(empty.nonzero()[0])}: leave such rows out"
            " or count them with FalsePositiveRate or ExtendedScore"
        )


def _refuse_infinite(maps: Tensor) -> None:
    # The extremes tell of every pixel, NaN included, and take far less time than looking at each.
    if maps.numel() and not bool(torch.stack([maps.amin(), maps.amax()]).isfinite().all()):
        raise ValueError("a confidence map holds a value that is not finite")


class PerSampleScore(Metric):
    """Gathers the cIoU of every sample under one threshold convention.

    Args:
        convention: as for `LocalizationScore`.
        threshold: as for `LocalizationScore`.
    """

    higher_is_better = True
    full_state_update = False
    ciou: list[Tensor]

    def __init__(self, convention: F.Convention, threshold: float | None = None) -> None:
        super().__init__()
        if convention not in F.CONVENTIONS:
            raise ValueError(f"unknown threshold convention '{convention}': allowed are {', '.join(F.CONVENTIONS)}")
        if convention.startswith("fixed") != (threshold is not None):
            need = "needs a" if threshold is None else "takes no"
            raise ValueError(f"threshold convention '{convention}' {need} threshold")
        self.convention = convention
        self.threshold = threshold
        self.add_state("ciou", default=[], dist_reduce_fx="cat")

    def _score(self, maps: Tensor, truth: Tensor) -> None:
        validate(maps, truth)
        self.ciou.append(F.ciou(F.predict_mask(maps, truth, self.convention, self.threshold), truth))


class LocalizationScore(PerSampleScore):
    """CIoU@0.5, CIoU@0.7, AUC and mean cIoU under one threshold convention.

    Args:
        convention: how a map becomes a mask, one of `avsl.functional.localization.CONVENTIONS`. The headline is
            ``fixed``; ``adaptive`` is told the true area and must never select anything.
        threshold: for ``fixed`` and ``fixed_minmax``, which need it.

    Raises:
        ValueError: the convention is unknown, or does not go with the threshold.
    """

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w); for ``fixed`` the confidence in [0, 1].
            truth: (B, H, W) in [0, 1], none of them empty.

        Raises:
            ValueError: shapes do not pair up, a map is not finite, or a truth is empty.
        """
        self._score(maps, truth)

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name: ``ciou`` (CIoU@0.5), ``ciou_70`` (CIoU@0.7), ``auc``, ``mean_ciou``."""
        return F.summarize(dim_zero_cat(self.ciou))


class InteractiveScore(PerSampleScore):
    """IIoU and IAUC: of a frame's several sounds the worst counts (Senocak et al., arXiv 2407.13676).

    Args:
        convention: as for `LocalizationScore`.
        threshold: as for `LocalizationScore`.
    """

    group: list[Tensor]

    def __init__(self, convention: F.Convention, threshold: float | None = None) -> None:
        super().__init__(convention, threshold)
        self.add_state("group", default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, truth: Tensor, group: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w); for ``fixed`` the confidence in [0, 1].
            truth: (B, H, W) in [0, 1], none of them empty.
            group: (B,) integer, the same for all rows of one frame, which may lie in different batches.

        Raises:
            ValueError: shapes do not pair up, a map is not finite, or a truth is empty.
        """
        if group.shape != maps.shape[:1]:
            raise ValueError(f"one group id per map is needed, got {tuple(group.shape)} for {len(maps)} maps")
        self._score(maps, truth)
        self.group.append(group)

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name: ``iiou`` (at 0.5), ``iauc``."""
        worst = F.interactive_iou(dim_zero_cat(self.ciou), dim_zero_cat(self.group))
        return {"iiou": F.success_rate(worst), "iauc": F.auc(worst)}


class ThresholdSweep(Metric):
    """CIoU@0.5 of the confidence at each candidate threshold, in one pass; chooses the fixed one on validation.

    Args:
        thresholds: candidates, rising.

    Raises:
        ValueError: the candidates do not rise.
    """

    higher_is_better = True
    full_state_update = False
    thresholds: Tensor
    successes: Tensor
    samples: Tensor

    def __init__(self, thresholds: Sequence[float] = CANDIDATE_THRESHOLDS) -> None:
        super().__init__()
        if not thresholds or any(a >= b for a, b in pairwise(thresholds)):
            raise ValueError("the candidate thresholds must rise")
        self.candidates = tuple(thresholds)
        self.register_buffer("thresholds", torch.tensor(self.candidates), persistent=False)
        self.add_state("successes", default=torch.zeros(len(thresholds), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w) confidence in [0, 1].
            truth: (B, H, W) in [0, 1], none of them empty.

        Raises:
            ValueError: shapes do not pair up, a map is not finite, or a truth is empty.
        """
        validate(maps, truth)
        self.successes += (F.ciou_by_threshold(maps, truth, self.thresholds) >= 0.5).sum(0)
        self.samples += len(maps)

    def compute(self) -> Tensor:
        """CIoU@0.5 at every candidate, (T,) float64.

        Raises:
            ValueError: there is no sample.
        """
        if int(self.samples) == 0:
            raise ValueError("a threshold cannot be chosen without a sample")
        return self.successes.double() / self.samples

    def best(self) -> float:
        """The candidate with the highest CIoU@0.5; of equal ones the middle of the longest unbroken run.

        Of runs of equal length the lowest counts, and of an even run the lower middle.
        """
        rates: list[float] = self.compute().tolist()
        top = max(rates)
        start, longest = 0, range(0)
        for index, rate in enumerate(rates):
            if rate < top:
                start = index + 1
            elif index + 1 - start > len(longest):
                longest = range(start, index + 1)
        return self.candidates[longest[(len(longest) - 1) // 2]]


class FalsePositiveRate(Metric):
    """Share of frames without a source in view in which some pixel reaches the fixed threshold.

    Args:
        threshold: the fixed threshold, on the confidence itself.
    """

    higher_is_better = False
    full_state_update = False
    fired: Tensor
    samples: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("fired", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("samples", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, maps: Tensor, size: tuple[int, int]) -> None:
        """Add frames.

        Args:
            maps: (B, h, w) confidence in [0, 1].
            size: (H, W) of the frames.

        Raises:
            ValueError: a map is not finite.
        """
        _refuse_infinite(maps)
        self.fired += F.fires(maps, size, self.threshold).sum()
        self.samples += len(maps)

    def compute(self) -> Tensor:
        """The rate in [0, 1], () float64.

        Raises:
            ValueError: there is no frame.
        """
        if int(self.samples) == 0:
            raise ValueError("a false-positive rate needs at least one frame")
        return self.fired.double() / self.samples
