"""All scores of one part of the data, computed from one set of per-sample values."""

from __future__ import annotations

import torch
from torch import Tensor

from avsl.functional import localization as F
from avsl.functional import segmentation as S
from avsl.metrics.samples import SampleMetric, validate

_SCORES = (
    "ciou",
    "ciou_median",
    "ciou_oracle",
    "ciou_shuffled",
    "ciou_consensus",
    "ciou_aligned",
    "pixel_ap",
    "pixel_ap_aligned",
    "piap_as_published",
)


class PartScore(SampleMetric):
    """Scores of a part of the data: at the fixed threshold, under the published conventions, and pixel-wise.

    Per-sample values are attributes of shape (n,): ``ciou`` (NaN on silent samples), ``area`` (the truth's share of
    the frame), ``size`` (index into `avsl.functional.localization.AREA_BUCKETS`), ``peak`` (the highest confidence).

    Args:
        n: number of samples.
        threshold: the fixed threshold on the confidence; or one for each sample, (n,).
        mixed: whether several sources sound at once in a sample.
        exact_masks: whether the truth of any sample is a mask of the exact pixels.

    Examples:
        >>> metric = PartScore(n=2, threshold=0.5)
        >>> truth = torch.zeros(2, 4, 4, dtype=torch.bool)
        >>> truth[:, :2] = True
        >>> confidence = torch.stack([truth[0].float(), 1 - truth[1].float()])
        >>> metric.update(confidence, truth, exact=torch.tensor([False, False]), group=torch.tensor([0, 1]))
        >>> metric.compute()["ciou"].item()
        0.5
    """

    higher_is_better = True
    ciou: Tensor
    ciou_shuffled: Tensor
    ciou_consensus: Tensor
    pixel_ap: Tensor
    piap_as_published: Tensor
    area: Tensor
    peak: Tensor
    size: Tensor
    fires: Tensor
    group: Tensor
    exact: Tensor
    iou: Tensor
    f_scores: Tensor

    def __init__(self, n: int, threshold: float | Tensor, *, mixed: bool = False, exact_masks: bool = False) -> None:
        columns = dict.fromkeys(_SCORES, torch.float64) | dict.fromkeys(("area", "peak", "iou"), torch.float32)
        columns |= dict.fromkeys(("size", "group"), torch.long) | dict.fromkeys(("fires", "exact"), torch.bool)
        super().__init__(n, columns)
        self.threshold = threshold
        self.mixed = mixed
        self.exact_masks = exact_masks
        self.add_state("f_scores", torch.zeros(n if exact_masks else 0, S.F_THRESHOLDS), dist_reduce_fx="cat")

    def update(
        self,
        confidence: Tensor,
        truth: Tensor,
        exact: Tensor,
        group: Tensor,
        *,
        shuffled: Tensor | None = None,
        consensus: Tensor | None = None,
    ) -> None:
        """Add samples.

        Args:
            confidence: (B, h, w) in [0, 1].
            truth: (B, H, W) bool; empty where nothing in view sounds.
            exact: (B,) bool, whether the truth is a mask of the exact pixels.
            group: (B,) integer, equal for samples that share a frame.
            shuffled: (B, h, w) confidence with other samples' sounds.
            consensus: (B, H, W) consensus map of all annotators' boxes; NaN where they are unknown.

        Raises:
            ValueError: shapes do not pair up, or a map is not finite.
        """
        validate(confidence, truth, silent=True)
        size = (truth.shape[-2], truth.shape[-1])
        # `F.predict_mask` does not resize maps of the truth's size, so each resizing happens once.
        smooth = F.resize_as(confidence, size, "fixed")
        start = int(self.filled)
        threshold = self.threshold
        if isinstance(threshold, Tensor):
            threshold = threshold[start : start + len(confidence)]
        fixed = F.binarize(smooth, "fixed", threshold)
        ranked = F.predict_masks(confidence, truth, {"median": None, "adaptive": None})
        found = {
            "ciou": F.ciou(fixed, truth),
            "ciou_median": F.ciou(ranked["median"], truth),
            "ciou_oracle": F.ciou(ranked["adaptive"], truth),
            "fires": F.count(fixed) > 0,
            "area": F.count(truth) / (size[0] * size[1]),
            "size": F.area_bucket(truth),
            "peak": confidence.amax((-2, -1)),
            "group": group,
            "exact": exact,
        }
        if shuffled is not None:
            validate(shuffled, truth, silent=True)
            found["ciou_shuffled"] = F.ciou(F.predict_mask(shuffled, truth, "fixed", threshold), truth)
        if consensus is not None:
            found["ciou_consensus"] = F.ciou(ranked["median"], consensus)
        if self.mixed or self.exact_masks:
            found["pixel_ap"] = S.pixel_average_precision(smooth, truth)
        if self.mixed:
            aligned = F.resize_as(confidence, size, "median_aligned")
            chosen = F.predict_mask(aligned, truth, "median_aligned")
            found["ciou_aligned"] = F.ciou(chosen, truth)
            found["pixel_ap_aligned"] = S.pixel_average_precision(aligned, truth)
            found["piap_as_published"] = S.piap_as_published(chosen, truth)
        if self.exact_masks:
            found["iou"] = S.avs_iou(smooth, truth)
            found["f_scores"] = S.avs_f_scores(smooth, truth)
        self.put(found)

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, () each; see `avsl.evaluation.scoring.score_part`."""
        sounding, exact = ~self.ciou.isnan(), self.exact
        found: dict[str, Tensor] = {}
        if bool(sounding.any()):
            for suffix in ("", "_median", "_oracle"):
                summary = F.summarize(getattr(self, f"ciou{suffix}")[sounding])
                found |= {name + suffix: score for name, score in summary.items()}
            voted = ~self.ciou_consensus.isnan()
            if bool(voted.any()):
                summary = F.summarize(self.ciou_consensus[voted])
                found |= {f"{name}_consensus": score for name, score in summary.items()}
            shuffled = self.ciou_shuffled[sounding]
            if not bool(shuffled.isnan().any()):
                found["ciou_shuffled"] = F.success_rate(shuffled)
            if self.mixed:
                for suffix in ("", "_aligned"):
                    ciou, pixel_ap = (getattr(self, name + suffix)[sounding] for name in ("ciou", "pixel_ap"))
                    found |= {name + suffix: score for name, score in S.summarize_sources(ciou, pixel_ap).items()}
                found["piap_as_published"] = self.piap_as_published[sounding].mean()
            elif bool((sounding & exact).any()):
                found["pixel_ap"] = self.pixel_ap[sounding & exact].mean()
            group = self.group[sounding]
            if not self.mixed and int(group.bincount().max()) > 1:
                worst = F.interactive_iou(self.ciou[sounding], group)
                found |= {"iiou": F.success_rate(worst), "iauc": F.auc(worst)}
        if not bool(sounding.all()):
            found["false_positive_rate"] = self.fires[~sounding].double().mean()
        if bool(exact.any()):
            found |= {"n_exact": exact.sum()} | S.summarize_avs(self.iou[exact], self.f_scores[exact])
        return found
