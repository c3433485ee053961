"""Localization scores against the published code's numbers and against references written out in NumPy."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from tests.fixtures.reference import find_shared

from avsl.functional import localization as loc

Array = npt.NDArray[np.float64]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _maps(count: int, cells: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, cells, cells, generator=_rng(seed))


def _box_truth(count: int, size: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([start, start + rng.uniform(0.15, 0.4, (count, 2))], axis=1)
    return loc.box_masks(torch.from_numpy(boxes), torch.arange(count + 1), size)


def _loop_ciou(pred: npt.NDArray[np.bool_], truth: Array) -> float:
    hit = area = outside = 0.0
    for p, t in zip(pred.ravel(), truth.ravel(), strict=True):
        hit += t if p else 0.0
        area += t
        outside += 1.0 if p and t == 0 else 0.0
    return hit / (area + outside)


def _exact(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9, check_dtype=False)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("suffix", "convention", "threshold"),
    [
        ("median", "median", None),
        ("extended", "median_aligned", None),
        ("multi", "median_aligned", None),
        ("median_strict", "median_strict", None),
        ("adaptive", "adaptive", None),
        ("fixed50", "fixed_minmax", 0.5),
        ("flickr", "median", None),
    ],
)
def test_published_scores(
    published_metrics: dict[str, torch.Tensor], suffix: str, convention: loc.Convention, threshold: float | None
) -> None:
    """Every convention gives the published code's cIoU, success rate, AUC and mean."""
    truth = (
        loc.consensus_maps(published_metrics["flickr_boxes_256"], 224)
        if suffix == "flickr"
        else loc.box_masks(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    )
    scores = loc.ciou(loc.predict_mask(published_metrics["raw_maps"], truth, convention, threshold), truth)
    expected = published_metrics[f"{suffix}_ciou" if suffix in ("extended", "multi") else f"ciou_{suffix}"]
    _exact(scores, expected[: len(scores)])  # silent rows follow the others in the extended protocol
    for name, value in (("ap50", loc.success_rate(scores)), ("auc", loc.auc(scores)), ("mean_ciou", scores.mean())):
        if f"{name}_{suffix}" in published_metrics:
            _exact(value, published_metrics[f"{name}_{suffix}"])


@pytest.mark.reference
@pytest.mark.parametrize(("suffix", "scores"), [("", "ciou_median"), ("_adaptive", "ciou_adaptive")])
def test_published_interactive_scores(published_metrics: dict[str, torch.Tensor], suffix: str, scores: str) -> None:
    """IIoU and IAUC of pairs, from either convention."""
    worst = loc.interactive_iou(published_metrics[scores], torch.arange(len(published_metrics[scores])) // 2)
    _exact(loc.success_rate(worst), published_metrics[f"iiou{suffix}"])
    _exact(loc.auc(worst), published_metrics[f"iauc{suffix}"])


@pytest.mark.reference
def test_published_area_buckets(published_metrics: dict[str, torch.Tensor]) -> None:
    """SLAVC's size classes."""
    truth = loc.box_masks(published_metrics["boxes"], published_metrics["box_offsets"], 224)
    scores = loc.ciou(loc.predict_mask(published_metrics["raw_maps"], truth, "median_aligned"), truth)
    bucket = loc.area_bucket(truth)
    for index, name in enumerate(loc.AREA_BUCKETS):
        if f"auc_area_{name}" in published_metrics:
            _exact(loc.auc(scores[bucket == index]), published_metrics[f"auc_area_{name}"])


@pytest.mark.slow
def test_trivial_baselines_on_vggss() -> None:
    """The figures of maps that know nothing, over all 5,158 clips."""
    path = find_shared("annotations/vggss.json")
    cases: list[tuple[str, loc.Convention, float, float | None]] = [
        ("whole_image", "median", 21.9, 31.3),
        ("centered_disc", "median", 34.0, 37.4),
        ("perfect_ranking", "median", 50.5, 49.5),
        ("centered_disc", "adaptive", 43.7, None),
    ]
    rows = [row["bbox"] for row in json.loads(path.read_text())]
    scores: list[list[torch.Tensor]] = [[] for _ in cases]
    for start in range(0, len(rows), 16):
        part = rows[start : start + 16]
        offsets = torch.tensor([0, *np.cumsum([len(boxes) for boxes in part]).tolist()])
        boxes = torch.tensor([box for image in part for box in image], dtype=torch.float64)
        truth = loc.box_masks(boxes, offsets, 224)
        maps = loc.trivial_maps(truth)
        for found, (name, convention, _, _) in zip(scores, cases, strict=True):
            found.append(loc.ciou(loc.predict_mask(maps[name], truth, convention), truth))
    for found, (name, convention, rate, area) in zip(scores, cases, strict=True):
        every = torch.cat(found)
        # The published figures count the two clips whose boxes vanish at 224 pixels as failures.
        assert int(every.isnan().sum()) == 2
        assert round(100 * loc.success_rate(every).item(), 1) == rate, (name, convention)
        if area is not None:
            assert round(100 * loc.auc(every).item(), 1) == area, (name, convention)


@pytest.mark.parametrize(
    ("cells", "size"), [(7, (224, 224)), (16, (64, 64)), (12, (200, 150)), (5, (3, 4)), (1, (8, 8))]
)
def test_resize_agrees_with_torch(cells: int, size: tuple[int, int]) -> None:
    """Bilinear to rounding, bicubic to the bit, up and down, square or not."""
    maps = _maps(3, cells)
    bilinear = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(loc.resize_maps(maps, size, "opencv_bilinear"), bilinear, rtol=0, atol=5e-6)
    modes: tuple[tuple[loc.ResizeMode, bool], ...] = (("bicubic", False), ("bicubic_aligned", True))
    for mode, aligned in modes:
        expected = torch.cat(
            [F.interpolate(m[None, None], size, mode="bicubic", align_corners=aligned)[0] for m in maps]
        )
        assert torch.equal(loc.resize_maps(maps, size, mode), expected)


@pytest.mark.parametrize(("cells", "size"), [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((4, 8), (32, 128))])
@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_products_have_torchs_bits_in_any_batch(cells: tuple[int, int], size: tuple[int, int], count: int) -> None:
    """Bicubic on maps of both signs, at borders and on ties: not one bit differs, however many rows there are."""
    maps = torch.randn(count, *cells, generator=_rng(count))
    maps[0] = (maps[0] * 2).round() / 2
    expected = F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0]
    assert torch.equal(loc.resize_maps(maps, size, "bicubic"), expected)


def test_bilinear_is_rounded_once_a_side() -> None:
    """As OpenCV fuses a + (b - a) · w: NumPy's products in float64, rounded to float32 after each side."""
    maps = torch.randn(9, 7, 7, generator=_rng(1)).numpy()
    position = np.clip((np.arange(224) + 0.5) / 32 - 0.5, 0, 6)
    left = position.astype(int)
    right, step = np.minimum(left + 1, 6), position - left
    rows = (maps[:, :, left] + (maps[:, :, right] - maps[:, :, left]) * step).astype(np.float32)
    expected = (rows[:, left] + (rows[:, right] - rows[:, left]) * step[:, None]).astype(np.float32)
    np.testing.assert_array_equal(loc.resize_maps(torch.from_numpy(maps), (224, 224), "opencv_bilinear"), expected)


def test_bilinear_stays_between_the_cells_and_keeps_the_border() -> None:
    """Interpolation never overshoots; the corners hold the corner cells."""
    maps = _maps(4, 7, seed=3)
    resized = loc.resize_maps(maps, (224, 224), "opencv_bilinear")
    assert torch.equal(resized[:, 0, 0], maps[:, 0, 0])
    assert torch.equal(resized[:, -1, -1], maps[:, -1, -1])
    assert bool((resized.amax((1, 2)) <= maps.amax((1, 2))).all())


def test_maps_at_the_truths_size_are_left_alone() -> None:
    """No mode touches a map that has the size already."""
    maps = _maps(2, 12)
    for mode in get_args(loc.ResizeMode):
        assert torch.equal(loc.resize_maps(maps, (12, 12), mode), maps)


def test_minmax_spans_the_unit_range_and_keeps_constant_maps() -> None:
    """From 0 to 1, without a division by zero."""
    maps = torch.cat([_maps(3, 6) * 5 - 2, torch.full((1, 6, 6), 0.3)])
    stretched = loc.minmax(maps)
    assert torch.equal(stretched[:3].amin((1, 2)), torch.zeros(3))
    assert torch.equal(stretched[:3].amax((1, 2)), torch.ones(3))
    assert torch.equal(stretched[3], maps[3])


def test_box_masks_are_painted_unions() -> None:
    """As slices of an array, with images without a box and corners outside."""
    rng = np.random.default_rng(5)
    counts = [2, 0, 3, 1]
    corners = rng.uniform(-0.2, 1.2, (sum(counts), 2, 2))
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    boxes[0] = [0.5, 0.5, 0.5, 0.9]  # no width
    boxes[1, 0] = -2.88e16  # as in VGG-SS
    offsets = np.cumsum([0, *counts])
    expected = np.zeros((4, 50, 50))
    for image in range(4):
        for box in boxes[offsets[image] : offsets[image + 1]]:
            x0, y0, x1, y1 = (int(50 * min(max(v, 0.0), 1.0)) for v in box)
            expected[image, y0:y1, x0:x1] = 1
    actual = loc.box_masks(torch.from_numpy(boxes), torch.from_numpy(offsets), 50)
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_box_masks_refuse_what_they_cannot_draw() -> None:
    """Offsets that miss boxes, corners that are NaN."""
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match="offsets"):
        loc.box_masks(boxes, torch.tensor([0, 2]), 8)
    with pytest.raises(ValueError, match="not a number"):
        loc.box_masks(boxes * torch.nan, torch.tensor([0, 1]), 8)


def test_consensus_counts_annotators_in_halves() -> None:
    """One box 0.5, two or three 1."""
    boxes = torch.tensor([[[0, 0, 128, 256], [64, 0, 192, 256], [64, 0, 128, 128]]])
    truth = loc.consensus_maps(boxes, 8)[0]
    assert truth[:, 0].tolist() == [0.5] * 8
    assert truth[:, 2].tolist() == [1.0] * 8
    assert truth[:, 5].tolist() == [0.5] * 8
    assert truth[:, 7].tolist() == [0.0] * 8


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_conventions_and_ciou_match_a_loop(convention: loc.Convention, ties: bool) -> None:
    """Sorting and counting pixel by pixel gives the same, on ties too."""
    size = 12
    maps = _maps(8, size, seed=7)
    if ties:
        maps = (maps * 4).round() / 4
    truth = _box_truth(8, size, seed=7)
    truth[::2] /= 2  # consensus maps
    threshold = 0.5 if convention.startswith("fixed") else None
    actual = loc.ciou(loc.predict_mask(maps, truth, convention, threshold), truth)
    for row, (values, target) in enumerate(zip(maps.numpy(), truth.double().numpy(), strict=True)):
        if convention != "fixed":
            values = (values - values.min()) / (values.max() - values.min())
        ranked = np.sort(values.ravel())
        mask = {
            "median": values >= ranked[size * size // 2],
            "median_aligned": values >= ranked[size * size // 2],
            "median_strict": values > ranked[size * size // 2],
            "adaptive": values > ranked[-int((target != 0).sum())],
        }.get(convention, values >= 0.5)
        assert actual[row].item() == pytest.approx(_loop_ciou(mask, target), abs=1e-12)


@pytest.mark.parametrize("convention", ["median", "median_strict", "adaptive"])
@pytest.mark.parametrize("size", [(224, 224), (93, 31), (3, 3)])
@pytest.mark.parametrize("kind", ["smooth", "ties", "constant", "one column apart"])
def test_thresholds_by_rank_are_those_of_a_full_sort(
    convention: loc.Convention, size: tuple[int, int], kind: str
) -> None:
    """Whatever the values and areas, and where the few pixels looked at first tell nothing of the others."""
    maps = loc.minmax(loc.resize_maps(_maps(4, 7, seed=8), size, "bicubic"))
    if kind == "ties":
        maps = (maps * 5).round() / 5
    elif kind == "constant":
        maps = torch.full_like(maps, 0.3)
    elif kind == "one column apart":
        maps[..., 0] = torch.tensor([-1.0, 2.0, -1.0, 2.0])[:, None]
    pixels = size[0] * size[1]
    truth = torch.zeros(4, pixels, dtype=torch.bool)
    areas = (1, 2, pixels // 2, pixels)
    for row, area in enumerate(areas):
        truth[row, :area] = True
    actual = loc.binarize(maps, convention, truth=truth.view(4, *size)).numpy()
    for values, area, mask in zip(maps.numpy(), areas, actual, strict=True):
        ranked = np.sort(values.ravel())
        cut = ranked[-area] if convention == "adaptive" else ranked[pixels // 2]
        np.testing.assert_array_equal(mask, values >= cut if convention == "median" else values > cut)


@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_a_batch_equals_its_rows_in_any_order(convention: loc.Convention) -> None:
    """No row knows of its neighbors."""
    threshold = 0.5 if convention.startswith("fixed") else None
    maps, truth = _maps(6, 7, seed=2), _box_truth(6, 56, seed=2)
    together = loc.predict_mask(maps, truth, convention, threshold)
    alone = torch.cat([loc.predict_mask(maps[i : i + 1], truth[i : i + 1], convention, threshold) for i in range(6)])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(together, alone)
    assert torch.equal(loc.predict_mask(maps[order], truth[order], convention, threshold), together[order])


@pytest.mark.parametrize("convention", loc.CONVENTIONS)
def test_only_the_absolute_convention_feels_the_scale(convention: loc.Convention) -> None:
    """A quarter of the confidence is the same ranking but no prediction."""
    threshold = 0.5 if convention.startswith("fixed") else None
    maps, truth = _maps(6, 7, seed=4), _box_truth(6, 56, seed=4)
    before = loc.predict_mask(maps, truth, convention, threshold)
    # A quarter is exact in binary, so not one pixel may change.
    after = loc.predict_mask(maps / 4, truth, convention, threshold)
    assert torch.equal(before, after) == (convention != "fixed")
    assert convention != "fixed" or not bool(after.any())


def test_conventions_together_equal_each_alone() -> None:
    """Sharing the resizing changes no pixel."""
    maps, truth = _maps(6, 7, seed=5), _box_truth(6, 56, seed=5)
    thresholds = {c: 0.4 if c.startswith("fixed") else None for c in loc.CONVENTIONS}
    together = loc.predict_masks(maps, truth, thresholds)
    assert list(together) == list(loc.CONVENTIONS)
    for convention, threshold in thresholds.items():
        assert torch.equal(together[convention], loc.predict_mask(maps, truth, convention, threshold))


def test_autocast_leaves_resizing_alone() -> None:
    """In bf16, which autocast would choose, a pixel would keep two digits."""
    maps = _maps(3, 7)
    for mode in get_args(loc.ResizeMode):
        expected = loc.resize_maps(maps, (224, 224), mode)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loc.resize_maps(maps, (224, 224), mode), expected)


def test_half_precision_maps_are_scored_in_float32() -> None:
    """bf16 maps give what their float32 values give."""
    maps, truth = _maps(4, 7).bfloat16(), _box_truth(4, 56)
    for convention in loc.CONVENTIONS:
        threshold = 0.5 if convention.startswith("fixed") else None
        halves = loc.predict_mask(maps, truth, convention, threshold)
        assert torch.equal(halves, loc.predict_mask(maps.float(), truth, convention, threshold))


def test_ciou_limits() -> None:
    """The truth scores 1, its complement 0, an empty truth has no score."""
    truth = _box_truth(3, 20)
    assert loc.ciou(truth.bool(), truth).tolist() == [1.0, 1.0, 1.0]
    assert loc.ciou(truth == 0, truth).tolist() == [0.0, 0.0, 0.0]
    assert bool(loc.ciou(truth.bool(), torch.zeros_like(truth)).isnan().all())


def test_ciou_of_a_bool_truth_is_that_of_zeros_and_ones() -> None:
    """Counting and adding up agree, on a view of other memory order too; an empty truth has no score."""
    truth, pred = _box_truth(5, 20).bool(), _maps(5, 20) > 0.4
    truth[2] = False
    for t, p in ((truth, pred), (truth.mT, pred.mT)):
        torch.testing.assert_close(loc.ciou(p, t), loc.ciou(p, t.float()), rtol=0, atol=0, equal_nan=True)
    assert loc.count(truth).tolist() == [int(mask.sum()) for mask in truth.numpy()]


def test_binarize_says_what_is_missing() -> None:
    """The error names the convention."""
    maps = _maps(1, 4)
    with pytest.raises(ValueError, match="needs a threshold"):
        loc.binarize(maps, "fixed")
    with pytest.raises(ValueError, match="needs the truth"):
        loc.binarize(maps, "adaptive")


def test_sweep_equals_one_binarization_per_threshold() -> None:
    """All 99 thresholds in one pass, confidences on a threshold included."""
    thresholds = [step / 100 for step in range(1, 100)]
    maps, truth = _maps(5, 7, seed=9), _box_truth(5, 28, seed=9)
    maps[0] = (maps[0] * 100).round() / 100  # confidences on a threshold count as reaching it
    maps = torch.cat([maps, maps[:1]])
    truth = torch.cat([truth, truth[:1] / 2])
    swept = loc.ciou_by_threshold(maps, truth, torch.tensor(thresholds))
    for column, threshold in enumerate(thresholds):
        expected = loc.ciou(loc.predict_mask(maps, truth, "fixed", threshold), truth)
        torch.testing.assert_close(swept[:, column], expected, rtol=0, atol=1e-12)


def test_sums_above_match_a_loop() -> None:
    """The weight of the pixels at or above each threshold, all of them first."""
    values, weight = _maps(3, 6, seed=11), (_maps(3, 6, seed=12) * 3).round() / 2
    values[0] = (values[0] * 10).round() / 10
    thresholds = torch.tensor([0.0, 0.3, 0.7, 1.5])
    sums = loc.sums_above(values, weight, thresholds)
    for row in range(3):
        expected = [weight[row].sum().item()]
        for threshold in thresholds:
            reached = [w for v, w in zip(values[row].flatten(), weight[row].flatten(), strict=True) if v >= threshold]
            expected.append(float(sum(reached)))
        assert sums[row].tolist() == expected


def test_auc_and_success_rate_by_hand() -> None:
    """Against a trapezoid sum in NumPy."""
    scores = torch.tensor([0.0, 0.5, 1.0, 0.3], dtype=torch.float64)
    assert loc.success_rate(scores).item() == 0.5
    assert loc.success_rate(scores, strict=True).item() == 0.25
    rates = [np.mean(scores.numpy() >= 0.05 * step) for step in range(21)]
    assert loc.auc(scores).item() == pytest.approx(np.trapezoid(rates, dx=0.05), abs=1e-12)
    assert loc.auc(torch.ones(3)).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least one sample"):
        loc.success_rate(torch.zeros(0))


def test_interactive_score_is_the_worst_of_each_frame() -> None:
    """Groups in any order and of any size."""
    scores = torch.tensor([0.9, 0.2, 0.6, 0.7, 0.8], dtype=torch.float64)
    group = torch.tensor([4, 4, 1, 4, 1])
    assert loc.interactive_iou(scores, group).tolist() == [0.6, 0.2]


@pytest.mark.parametrize("size", [64, 224])
def test_trivial_maps(size: int) -> None:
    """The disc halves the frame; the ranking is the truth at 0.5 and cannot beat a median threshold."""
    truth = _box_truth(3, size, seed=1)
    maps = loc.trivial_maps(truth)
    for image in maps.values():
        assert image.shape == truth.shape
        assert 0 <= image.min().item() <= image.max().item() <= 1
    half = loc.predict_mask(maps["centered_disc"], truth, "fixed", 0.5)[0]
    assert half.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert bool(half[size // 2, size // 2])
    assert not bool(half[0, 0])
    assert torch.equal(half, loc.predict_mask(maps["centered_disc"], truth, "median")[0])
    ranking = maps["perfect_ranking"]
    assert len(np.unique(ranking[0].numpy())) == size * size
    assert torch.equal(loc.predict_mask(ranking, truth, "fixed", 0.5), truth.bool())
    area = truth.sum((1, 2)).double()
    assert bool((area < size**2 / 2).all())
    expected = area / (size**2 / 2)
    actual = loc.ciou(loc.predict_mask(ranking, truth, "median"), truth)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_area_buckets_at_their_bounds() -> None:
    """A bound belongs to the class above, at any resolution."""
    truth = torch.zeros(6, 224, 224)
    for row, side in enumerate((31, 32, 95, 96, 143, 144)):
        truth[row, :side, :side] = 1
    assert loc.area_bucket(truth).tolist() == [0, 1, 1, 2, 2, 3]
    coarse = torch.zeros(1, 7, 7)
    coarse[0, 0, 0] = 1  # the same share as 32 of 224 pixels
    assert loc.area_bucket(coarse).tolist() == [1]


def test_fires_where_a_pixel_reaches_the_threshold() -> None:
    """Reaching counts, staying below does not."""
    maps = torch.zeros(2, 4, 4)
    maps[1] = 0.6
    assert loc.fires(maps, (16, 16), 0.6).tolist() == [False, True]
    assert loc.fires(maps, (16, 16), 0.61).tolist() == [False, False]
