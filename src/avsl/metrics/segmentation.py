"""Scores of several sources at once and of masks, pixel by pixel."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avsl.functional import localization as F
from avsl.functional import segmentation as S
from avsl.metrics.localization import PerSampleScore, validate


class MultiSourceScore(PerSampleScore):
    """The multi-source code's figures (AVGN: Mo & Tian, CVPR 2023, arXiv 2303.17056), from ``median_aligned`` there.

    Args:
        convention: as for `LocalizationScore`.
        threshold: as for `LocalizationScore`.
    """

    pixel_ap: list[Tensor]
    piap_as_published: list[Tensor]

    def __init__(self, convention: F.Convention, threshold: float | None = None) -> None:
        super().__init__(convention, threshold)
        self.add_state("pixel_ap", default=[], dist_reduce_fx="cat")
        self.add_state("piap_as_published", default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            maps: (B, h, w); for ``fixed`` the confidence in [0, 1].
            truth: (B, H, W) in [0, 1], all of a row's sources together; none of them empty.

        Raises:
            ValueError: shapes do not pair up, a map is not finite, or a truth is empty.
        """
        validate(maps, truth)
        resized = F.resize_as(maps, (truth.shape[-2], truth.shape[-1]), self.convention)
        pred = F.predict_mask(resized, truth, self.convention, self.threshold)
        self.ciou.append(F.ciou(pred, truth))
        self.pixel_ap.append(S.pixel_average_precision(resized, truth))
        self.piap_as_published.append(S.piap_as_published(pred, truth))

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name, () float64.

        ``p10``, ``p30`` and ``p50``: the share of samples with cIoU above 0.1, 0.3, 0.5; ``pixel_ap``: the mean
        pixel-wise average precision; ``piap_as_published``: what the published code prints under that name.
        """
        found = S.summarize_sources(dim_zero_cat(self.ciou), dim_zero_cat(self.pixel_ap))
        return found | {"piap_as_published": dim_zero_cat(self.piap_as_published).mean()}


class SegmentationScore(Metric):
    """AVSBench's mIoU and F-score (Zhou et al., ECCV 2022, arXiv 2207.05042), with empty truths.

    The F-score is the highest mean over the whole data set, not the mean of the batches' highest.
    """

    higher_is_better = True
    full_state_update = False
    iou: list[Tensor]
    f_scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("iou", default=[], dist_reduce_fx="cat")
        self.add_state("f_scores", default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, truth: Tensor) -> None:
        """Add frames.

        Args:
            maps: (B, h, w) confidence in [0, 1], after the sigmoid; brought to the truth's size as for ``fixed``.
            truth: (B, H, W) in {0, 1}; empty where nothing in view sounds.

        Raises:
            ValueError: shapes do not pair up, or a map is not finite.
        """
        validate(maps, truth, silent=True)
        confidence = F.resize_as(maps, (truth.shape[-2], truth.shape[-1]), "fixed")
        self.iou.append(S.avs_iou(confidence, truth))
        self.f_scores.append(S.avs_f_scores(confidence, truth))

    def compute(self) -> dict[str, Tensor]:
        """Scores in [0, 1] by name, () float32: ``miou`` and, where a truth is not empty, ``fscore``.

        Raises:
            ValueError: there is no frame.
        """
        return S.summarize_avs(dim_zero_cat(self.iou), dim_zero_cat(self.f_scores))
