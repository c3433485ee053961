"""The comparison's tables, from evaluations written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from avsl.data.errors import DataError
from avsl.report.tables import report

_CELLS = (("supervised", 0.1, 0.25), ("dmt", 0.1, 0.5), ("supervised", 1.0, 0.75), ("dmt", 0.03, 0.125))


def _scores(ciou: float) -> dict[str, float]:
    names = ("ciou", "auc", "mean_ciou", "ciou_median", "auc_median", "mean_ciou_median")
    told = ("ciou_oracle", "auc_oracle", "mean_ciou_oracle", "ciou_shuffled")
    return {name: ciou + k / 1000 for k, name in enumerate((*names, *told))}


def _evaluate(base: Path, framework: str, ratio: float, ciou: float) -> None:
    """Leave what a training and an evaluation leave."""
    figures: dict[str, Any] = {
        "framework": framework,
        "label_ratio": ratio,
        "seed": 0,
        "train_seconds": 61.5,
        "labelled": round(400 * ratio),
        "metric": "CIoU@0.5",
        "threshold": 0.4,
        "validation": {"n": 30, "n_silent": 0} | _scores(ciou),
        "test": {
            "n": 40,
            "n_silent": 0,
            "by_size": {"small": {"n": 8, "ciou": ciou / 2}, "large": {"n": 32, "ciou": 9 * ciou / 8}},
            "by_class": {"dog, barking": {"n": 40, "ciou": ciou}},
        }
        | _scores(ciou),
        "test_offscreen": {"n": 0, "n_silent": 15, "false_positive_rate": 0.2},
        "ogl": None,
        "baselines": {
            "whole_image": _scores(0.01) | {"ciou_oracle": 0.0},
            "centred_disc": {"ciou": 0.0625, "auc": 0.1, "ciou_median": 0.15, "auc_median": 0.2},
            "perfect_ranking": {"ciou_median": 0.5625, "auc_median": 0.6},
        },
    }
    folder = base / "evaluate" / str(ratio) / framework
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(figures))
    curves = base / "train" / str(ratio) / framework / "curves.csv"
    curves.parent.mkdir(parents=True)
    curves.write_text(f"epoch,train/loss,val/ciou\n1.0,2.5,0.0\n2.0,1.5,{ciou}\n")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report's folder, made from four evaluations."""
    monkeypatch.chdir(Path(__file__).parents[2])
    for cell in _CELLS:
        _evaluate(tmp_path / "synthetic", *cell)
    report([f"root={tmp_path}", "data=synthetic"])
    return tmp_path / "synthetic" / "report"


def _read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_comparison_has_models_baselines_and_ceiling(made: Path) -> None:
    """Models by ratio and name, then what needs no model; each row says on how many clips it rests."""
    rows = _read(made / "comparison.csv")
    names = [(row["model"], row["labels"]) for row in rows]
    assert names == [
        ("dmt", "3 % (12)"),
        ("dmt", "10 % (40)"),
        ("supervised", "10 % (40)"),
        ("supervised", "100 % (400)"),
        ("whole image", "none"),
        ("centred disc", "none"),
        ("perfect ranking", "none"),
    ]
    assert {row["n"] for row in rows} == {"40"}
    assert [row["CIoU"] for row in rows] == ["12.5", "50.0", "25.0", "75.0", "1.0", "6.2", ""]
    assert [row["CIoU median"] for row in rows[-2:]] == ["15.0", "56.2"]
    assert rows[1]["CIoU, sounds shuffled"] == "50.9"
    assert rows[1]["CIoU oracle"] == "50.6"
    assert [bool(row["training (s)"]) for row in rows] == [True] * 4 + [False] * 3


def test_an_evaluation_with_an_object_prior_has_rows_of_its_own(made: Path) -> None:
    """Beside, not instead of, the model alone, and marked; the summary and the figures of the model stay its own."""
    before = _read(made / "comparison.csv")
    assert {row["OGL"] for row in before} == {"no"}
    path = made.parent / "evaluate" / "0.1" / "dmt" / "metrics.json"
    figures = json.loads(path.read_text())
    figures["ogl"] = {"alpha": 0.4, "threshold": 0.7, "test": {"n": 40, "n_silent": 0} | _scores(0.625)}
    path.write_text(json.dumps(figures))
    summary = (made / "summary.json").read_text()
    report([f"root={made.parents[1]}", "data=synthetic"])
    rows = _read(made / "comparison.csv")
    with_prior = [row for row in rows if row["OGL"] == "yes"]
    assert [(row["model"], row["labels"], row["CIoU"]) for row in with_prior] == [("dmt", "10 % (40)", "62.5")]
    assert [row for row in rows if row["OGL"] == "no"] == before
    assert (made / "summary.json").read_text() == summary
    (subset,) = (row for row in _read(made / "subsets.csv") if row["ogl"] == "yes")
    assert (subset["framework"], subset["part"], subset["ciou"]) == ("dmt", "test", "0.625")


def test_the_markdown_holds_the_same_cells(made: Path) -> None:
    """One table, in two formats; the note says what the oracle is."""
    lines = (made / "comparison.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = _read(made / "comparison.csv")
    assert table[0] == list(rows[0])
    assert table[2:] == [list(row.values()) for row in rows]
    assert "oracle* is told the true area" in lines[-1]


def test_subsets_curves_and_summary_hold_every_cell(made: Path) -> None:
    """Test parts and sizes of `test` among the subsets, each epoch among the curves, the headline in the summary."""
    subsets = _read(made / "subsets.csv")
    assert len(subsets) == 4 * len(_CELLS)
    assert {row["part"] for row in subsets} == {"test", "test/small", "test/large", "test_offscreen"}
    assert {"by_size", "by_class"}.isdisjoint(subsets[0])
    small = [row["ciou"] for row in subsets if row["part"] == "test/small" and row["n"] == "8"]
    assert sorted(map(float, small)) == sorted(ciou / 2 for _, _, ciou in _CELLS)
    silent = next(row for row in subsets if row["part"] == "test_offscreen")
    assert (silent["false_positive_rate"], silent["n_silent"], silent["ciou"]) == ("0.2", "15", "")
    curves = _read(made / "curves.csv")
    assert {(row["framework"], float(row["label_ratio"]), int(row["epoch"])) for row in curves} == {
        (framework, ratio, epoch) for framework, ratio, _ in _CELLS for epoch in (1, 2)
    }
    expected = {f"{framework}@{ratio}": ciou for framework, ratio, ciou in _CELLS}
    assert json.loads((made / "summary.json").read_text()) == expected
    for name in ("comparison.png", "curves.png"):
        assert (made / name).read_bytes().startswith(b"\x89PNG")


def test_a_report_of_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an evaluation there is one sentence and no file."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(DataError, match=r"holds no evaluation: run the evaluations first$"):
        report([f"root={tmp_path}", "data=synthetic"])
    assert not list(tmp_path.rglob("*"))
