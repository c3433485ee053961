"""Maps that need no model, against their figures on VGG-SS."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.fixtures.maps import draw_boxes, draw_truth
from tests.fixtures.reference import find_shared

from avsl.functional import localization as loc


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
        truth = draw_boxes(boxes, offsets, 224)
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


@pytest.mark.parametrize("size", [64, 224])
def test_trivial_maps(size: int) -> None:
    """The disc halves the frame; the ranking is the truth at 0.5 and cannot beat a median threshold."""
    truth = draw_truth(3, size, seed=1)
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
