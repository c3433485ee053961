"""The comparison's tables, from evaluations written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.fixtures.messages import facts, says

from avsl.errors import DataError
from avsl.records import RunRecord
from avsl.report.tables import report

Cells = tuple[tuple[str, float, float], ...]


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
        ("centered disc", "none"),
        ("perfect ranking", "none"),
    ]
    assert {row["n of N"] for row in rows} == {"40 of 44"}
    assert [row["CIoU"] for row in rows] == ["12.5", "50.0", "25.0", "75.0", "1.0", "6.2", ""]
    assert [row["CIoU median"] for row in rows[-2:]] == ["15.0", "56.2"]
    assert rows[1]["CIoU, sounds shuffled"] == "50.9"
    assert rows[1]["CIoU oracle"] == "50.6"
    assert [row["objective"] for row in rows] == ["ezvsl"] * 4 + ["none"] * 3
    for row in rows[:4]:  # hits by per_sample.csv; silent rows have no say
        low, high = map(float, row["CIoU, 95 % interval"].split(" to "))
        half = 1.96 * (float(row["CIoU"]) * (100 - float(row["CIoU"])) / 40) ** 0.5
        assert low == pytest.approx(float(row["CIoU"]) - half, abs=4)
        assert high == pytest.approx(float(row["CIoU"]) + half, abs=4)
    assert [row["CIoU, 95 % interval"] for row in rows[4:]] == [""] * 3
    assert [bool(row["training (s)"]) for row in rows] == [True] * 4 + [False] * 3


def test_an_evaluation_with_an_object_prior_has_rows_of_its_own(made: Path, base: Path) -> None:
    """Beside, not instead of, the model alone, and marked; the summary and the figures of the model stay its own."""
    before = _read(made / "comparison.csv")
    assert {row["OGL"] for row in before} == {"no"}
    path = base / "evaluate" / "0.1" / "dmt-ezvsl" / "0" / "metrics.json"
    figures = json.loads(path.read_text())
    test = {"n": 40, "n_silent": 0, "n_listed": 40, "ciou": 0.625}
    figures["ogl"] = {"weights": "w", "alpha": 0.4, "backbone": "b", "threshold": 0.7, "test": test, "validation": test}
    path.write_text(json.dumps(figures))
    report([f"root={base.parent}", "data=synthetic"])
    now = base / "report"
    rows = _read(now / "comparison.csv")
    with_prior = [row for row in rows if row["OGL"] == "yes"]
    assert [(row["model"], row["labels"], row["CIoU"]) for row in with_prior] == [("dmt", "10 % (40)", "62.5")]
    assert [row for row in rows if row["OGL"] == "no"] == before
    assert (now / "summary.json").read_bytes() == (made / "summary.json").read_bytes()
    (subset,) = (row for row in _read(now / "subsets.csv") if row["ogl"] == "yes")
    assert (subset["framework"], subset["part"], subset["ciou"]) == ("dmt", "test", "0.625")


def test_the_markdown_holds_the_same_cells(made: Path) -> None:
    """One table, in two formats; the note says what the oracle is."""
    lines = (made / "comparison.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = _read(made / "comparison.csv")
    assert table[0] == list(rows[0])
    assert table[2:] == [list(row.values()) for row in rows]
    assert says(lines[-1], "oracle area")


def test_subsets_curves_and_summary_hold_every_cell(made: Path, cells: Cells) -> None:
    """Test parts and sizes of `test` among the subsets, each epoch among the curves, the headline in the summary."""
    subsets = _read(made / "subsets.csv")
    needless = [row["framework"] for row in subsets if not row["label_ratio"]]
    assert needless == ["whole image", "centered disc", "perfect ranking"]
    assert len(subsets) == 4 * len(cells) + len(needless)
    assert {row["part"] for row in subsets} == {"test", "test/small", "test/large", "test_offscreen"}
    assert {"by_size", "by_class"}.isdisjoint(subsets[0])
    small = [row["ciou"] for row in subsets if row["part"] == "test/small" and row["n"] == "8"]
    assert sorted(map(float, small)) == sorted(ciou / 2 for _, _, ciou in cells)
    silent = next(row for row in subsets if row["part"] == "test_offscreen")
    assert (silent["false_positive_rate"], silent["n_silent"], silent["ciou"]) == ("0.2", "15", "")
    curves = _read(made / "curves.csv")
    assert {(row["model"], float(row["label_ratio"]), int(row["epoch"])) for row in curves} == {
        (framework, ratio, epoch) for framework, ratio, _ in cells for epoch in (1, 2)
    }
    expected = {f"{framework}-ezvsl@{ratio}": ciou for framework, ratio, ciou in cells}
    assert json.loads((made / "summary.json").read_text()) == expected
    for name in ("comparison.png", "curves.png"):
        assert (made / name).read_bytes().startswith(b"\x89PNG")


def test_a_report_of_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an evaluation there is one sentence and no file."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(DataError, match=facts(tmp_path)):
        report([f"root={tmp_path}", "data=synthetic"])
    assert not list(tmp_path.rglob("*"))


def test_a_test_part_without_sources_is_one_sentence(base: Path) -> None:
    """There is no CIoU where nothing in view sounds."""
    path = base / "evaluate" / "0.1" / "dmt-ezvsl" / "0" / "metrics.json"
    figures = json.loads(path.read_text())
    figures["test"] = {"n": 0, "n_silent": 40, "n_listed": 44, "false_positive_rate": 0.5}
    path.write_text(json.dumps(figures))
    with pytest.raises(DataError, match=facts("metrics.json 'test'")):
        report([f"root={base.parent}", "data=synthetic"])


def test_trainings_of_other_lengths_and_seeds_are_marked(base: Path, made: Path) -> None:
    """Columns that are there only where trainings differ in them; another model's evaluation is left out."""
    assert not {"epochs", "seed"} & set(_read(made / "comparison.csv")[0])
    for framework, changes in (("dmt", {"epochs": 7, "seed": 3}), ("supervised", {"model_hash": "later"})):
        folder = base / "train" / "0.1" / f"{framework}-ezvsl" / "0"
        RunRecord.load(folder).model_copy(update=changes).save(folder)
    report([f"root={base.parent}", "data=synthetic"])
    rows = [row for row in _read(base / "report" / "comparison.csv") if row["seed"]]
    assert len(rows) == 3
    assert [(row["model"], row["epochs"]) for row in rows if row["seed"] == "3"] == [("dmt", "7")]
