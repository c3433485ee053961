"""Annotations that look wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.media import WriteMedia
from tests.fixtures.messages import facts, says

from avsl.errors import DataError
from avsl.labels.review import review
from avsl.schema import ConfigError

_HEADER = "file,class,x0,y0,x1,y1\n"


def _rows(page: Path) -> list[tuple[str, float, str]]:
    """The table's rows: clip, score, reasons."""
    text = page.read_text()
    found = re.findall(r'<th scope="row">(.*?)</th><td.*?>\w+</td><td>(.*?)</td><td.*?>(.*?)</td>', text)
    return [(clip, float(score), reasons) for clip, score, reasons in found]


def test_boxes_are_judged_without_a_model(clips: Path, settings: list[str], write_media: WriteMedia) -> None:
    """Tiny, whole-frame and silent ones are named, those with two reasons first; good ones are not."""
    silent = clips / "videok_0_1.mp4"
    write_media(silent, frames=[0, 0.5, 0.9], samples=np.zeros(16000, np.float32), rate=16000)
    (clips / "annotations.csv").write_text(
        f"{_HEADER}videoa_0_1,c,0,0,1,1\nvideoa_0_1,c,0.5,0.5,0.51,0.51\n"
        "videob_0_1,c,0.1,0.1,0.6,0.9\nvideoc_0_1,c,0,0,1,0.98\nvideok_0_1,c,0.2,0.2,0.8,0.8\nvideod_0_1,c,,,,\n"
    )
    rows = _rows(review(settings))
    assert [(clip, score) for clip, score, _ in rows] == [("videoa_0_1", 2), ("videoc_0_1", 1), ("videok_0_1", 1)]
    assert "100 %" in rows[0][2]
    assert "0.01 %" in rows[0][2]
    assert "silent" in rows[2][2]


def test_a_model_that_disagrees_is_shown(
    clips: Path, settings: list[str], save_model: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """A model that marks the whole frame agrees with a large box alone; the page needs nothing but itself."""
    model = save_model(tmp_path / "model", 1)
    described = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(described | {"threshold": 0.0}))
    (clips / "annotations.csv").write_text(
        f"{_HEADER}videoa_0_1,c,0.5,0.5,1,1\nvideob_0_1,c,0.02,0.02,1,0.98\nvideoc_0_1,c,,,,\n"
    )
    page = review(settings, str(model))
    quarter, silent = sorted(_rows(page))
    assert quarter[:2] == ("videoa_0_1", 0.75)
    assert says(quarter[2], "0.25 (IoU)")
    assert silent[:2] == ("videoc_0_1", 1)
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert review(settings, str(model), worst=1).read_text().count("data:image/jpeg;base64,") == 1


def test_a_model_that_finds_nothing_disagrees_with_boxes(
    clips: Path, settings: list[str], save_model: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """And agrees with silence; where no peak reaches its presence it finds nothing."""
    model = save_model(tmp_path / "model", 1)
    described = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(described | {"threshold": 0.0, "presence": 1.0}))
    (clips / "annotations.csv").write_text(f"{_HEADER}videoa_0_1,c,0.5,0.5,1,1\nvideoc_0_1,c,,,,\n")
    ((name, suspicion, _),) = _rows(review(settings, str(model)))
    assert (name, suspicion) == ("videoa_0_1", 1)


def test_nothing_to_review_is_said(clips: Path, settings: list[str]) -> None:
    """Without annotations, or where none is to be shown."""
    with pytest.raises(DataError, match=facts("annotations.csv")):
        review(settings)
    with pytest.raises(ConfigError, match="--worst 0"):
        review(settings, worst=0)


def test_good_boxes_leave_an_empty_page(clips: Path, settings: list[str]) -> None:
    """Which says how many were looked at."""
    (clips / "annotations.csv").write_text(f"{_HEADER}videob_0_1,c,0.1,0.1,0.6,0.9\n")
    page = review(settings)
    assert _rows(page) == []
    assert says(page.read_text(), "0 of 1 annotations")
