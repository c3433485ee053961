"""The demo on a set that takes seconds."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import pytest
from PIL import Image
from tests.fixtures.messages import says

from avsl.records import EvaluationRecord
from avsl.stages.demo import demo

pytestmark = pytest.mark.slow

_SMALL = {"image_size": 32, "duration_s": 0.25, "n_train": 40, "n_validation": 16, "n_test": 8, "n_offscreen": 4}


def test_the_demo_ends_with_a_picture_a_score_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture opens where a person looks on."""
    monkeypatch.chdir(Path(__file__).parents[2])
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    small = [f"data.synthetic.{key}={value}" for key, value in _SMALL.items()]
    demo(
        [
            f"root={tmp_path}",
            *small,
            "start.epochs=1",
            "trainer.epochs=2",
            "trainer.batch_size=16",
            "trainer.labeled_batch_size=8",
            # With so short a sound oneDNN's bfloat16 gradient of a stride-2 kernel over a single column is not written.
            "trainer.precision=32-true",
        ]
    )
    (record,) = tmp_path.glob(f"synthetic/evaluate/*/*/*/{EvaluationRecord.FILE}")
    scores = EvaluationRecord.load(record.parent)
    printed = capsys.readouterr().out
    assert says(printed, f"{scores.labeled} {100 * scores.test.scores['ciou']:.0f} % {scores.test.n}")
    (address,) = opened
    picture = Path(address.removeprefix("file://"))
    assert picture.parent == record.parent
    assert says(printed, picture)
    assert says(printed, "make repro")
    Image.open(picture).verify()
