"""Detection scores over rows with and without a source in view."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from avsl.functional import detection as D
from avsl.functional import localization as F
from avsl.metrics.localization import PerSampleScore, validate


class ExtendedScore(PerSampleScore):
    """SLAVC's extended protocol (Mo & Morgado, NeurIPS 2022, arXiv 2209.09634): silent rows are negatives.

    A row's confidence is the mean of its map's highest quarter of pixels. The published figures come from
    ``median_aligned`` with a span of (−1, 1). Deviating, a row is silent where its truth is empty, so one whose boxes
    vanish at the truth's resolution is a negative and no missed source.

    Args:
        convention: as for `LocalizationScore`.
        threshold: as for `LocalizationScore`.
        span: the values of a map that mean 0 and 1; (−1, 1) for cosine similarities.

    Raises:
        ValueError: the convention is unknown, does not go with the threshold, or the span does not rise.
    """

    confidence: list[Tensor]
    size: list[Tensor]

    def __init__(
        self, convention: F.Convention, threshold: float | None = None, span: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__(convention, threshold)
        if span[0] >= span[1]:
            raise ValueError(f"the span of a map's values must rise, got {span}")
        self.span = span
        self.add_state("confidence", default=[], dist_reduce_fx="cat")
        self.add_state("size", default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add rows.

        Args:
            maps: (B, h, w), in the span; in [0, 1] for ``fixed`` with the default span.
            truth: (B, H, W) in [0, 1]; empty where nothing in view sounds.

        Raises:
            ValueError: shapes do not pair up, or a map is not finite.
        """
        validate(maps, truth, silent=True)
        low, high = self.span
        absolute = (F.resize_as(maps, (truth.shape[-2], truth.shape[-1]), self.convention) - low) / (high - low)
        self.ciou.append(F.ciou(F.predict_mask(absolute, truth, self.convention, self.threshold), truth))
        self.confidence.append(D.top_quarter_mean(absolute))
        self.size.append(F.area_bucket(truth))

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name, () float64.

        Over all rows ``ap``, ``f1`` (at a confidence of 0.5) and ``max_f1``; over those with a source in view, where
        there are any, ``precision`` (the share with cIoU above 0.5), ``auc`` and, for each size class that has rows,
        ``auc_small``, ``auc_medium``, ``auc_large`` and ``auc_huge``.

        Raises:
            ValueError: there is no row.
        """
        scores, confidence = dim_zero_cat(self.ciou), dim_zero_cat(self.confidence)
        ap = D.average_precision(confidence, scores)
        precision, recall = D.precision_recall(confidence, scores, confidence.new_tensor([0.5]))
        result = {"ap": ap, "f1": D.f1(precision, recall)[0], "max_f1": D.max_f1(confidence, scores)}
        visible = ~scores.isnan()
        if bool(visible.any()):
            result |= {"precision": F.success_rate(scores[visible], strict=True), "auc": F.auc(scores[visible])}
        size = dim_zero_cat(self.size)
        for index, name in enumerate(F.AREA_BUCKETS):
            rows = scores[visible & (size == index)]
            if len(rows):
                result[f"auc_{name}"] = F.auc(rows)
        return result
