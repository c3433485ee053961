"""The comparison's tables, from evaluations written by hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from itertools import product
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
    for row in rows[:4]:
        low, high = map(float, row["95 % interval"].split(" to "))
        # Student's t of three seeds 5 points apart, or more where the 40 rows say less.
        assert high - low >= min(100, 2 * 4.3 * 5 / 3**0.5 - 15)
        assert low < float(row["CIoU"]) < high
        assert (row["SD"], row["seeds"]) == ("5.0", "3")
        negatives = [row[f"boxed at {sound}"] for sound in ("silence", "noise", "off-screen sound")]
        assert negatives == ["2.0", "4.0", "30.0"]
    assert [row["95 % interval"] for row in rows[4:]] == [""] * 3
    assert [bool(row["training (s)"]) for row in rows] == [True] * 4 + [False] * 3


def test_an_evaluation_with_an_object_prior_has_rows_of_its_own(made: Path, base: Path) -> None:
    """Beside, not instead of, the model alone, and marked; the summary and the figures of the model stay its own."""
    before = _read(made / "comparison.csv")
    assert "OGL" not in before[0]
    for seed in range(3):
        path = base / "evaluate" / "0.1" / "dmt-ezvsl" / str(seed) / "metrics.json"
        figures = json.loads(path.read_text())
        test = {"n": 40, "n_silent": 0, "n_listed": 40, "ciou": 0.6 + 0.025 * seed}
        prior = {"weights": "w", "alpha": 0.4, "backbone": "b", "threshold": 0.7}
        path.write_text(json.dumps(figures | {"ogl": prior | {"test": test, "validation": test}}))
    report([f"root={base.parent}", "data=synthetic"])
    now = base / "report"
    rows = _read(now / "comparison.csv")
    with_prior = [row for row in rows if row["OGL"] == "yes"]
    assert [(row["model"], row["labels"], row["CIoU"]) for row in with_prior] == [("dmt", "10 % (40)", "62.5")]
    alone = [{key: row[key] for key in row if key != "OGL"} for row in rows if row["OGL"] == "no"]
    assert alone == before
    assert (now / "summary.json").read_bytes() == (made / "summary.json").read_bytes()
    (subset,) = (row for row in _read(now / "subsets.csv") if row["ogl"] == "yes")
    assert (subset["framework"], subset["part"], subset["ciou"]) == ("dmt", "test", "0.625")


def test_the_markdown_holds_the_same_cells(made: Path) -> None:
    """Two tables, each in two formats; a note says what the oracle is."""
    lines = (made / "comparison.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    models, pairs = _read(made / "comparison.csv"), _read(made / "pairs.csv")
    split = len(models) + 2
    for table, rows in ((cells[:split], models), (cells[split:], pairs)):
        assert table[0] == list(rows[0])
        assert table[2:] == [list(row.values()) for row in rows]
    assert any(says(line, "oracle area") for line in lines)


def test_pairs_have_a_difference_and_a_verdict(made: Path) -> None:
    """Of the same seeds and rows, in points; both in the summary too."""
    (pair,) = _read(made / "pairs.csv")
    assert (pair["labels"], pair["first"], pair["second"], pair["common seeds"]) == ("10 %", "dmt", "supervised", "3")
    assert (pair["first is"], pair["SD"], pair["more seeds"]) == ("better", "0.0", "")
    assert pair["difference (95 % interval)"].startswith("+25.0 (")
    (stated,) = json.loads((made / "summary.json").read_text())["pairs"]
    assert (stated["first"], stated["second"], stated["verdict"]) == ("dmt-ezvsl@0.1", "supervised-ezvsl@0.1", "better")
    assert (stated["seeds"], stated["difference"]) == ([0, 1, 2], pytest.approx(0.25))
    assert 0 < stated["low"] < 0.25 < stated["high"]
    assert 0 < stated["p"] <= 0.05


def test_what_is_not_told_apart_says_what_would_tell_it(base: Path, add_evaluation: Callable[..., None]) -> None:
    """Seeds that go either way; a method with fewer seeds is compared over those it has and does not lead."""
    for seed, ciou in enumerate((0.55, 0.65, 0.9)):
        add_evaluation("mean_teacher", 0.1, ciou, seed=seed)
    for seed, ciou in ((0, 0.9), (2, 0.95)):
        add_evaluation("xpl", 0.1, ciou, seed=seed)
    report([f"root={base.parent}", "data=synthetic"])
    pairs = {(row["first"], row["second"]): row for row in _read(base / "report" / "pairs.csv")}
    assert [len(pairs), pairs["dmt", "xpl"]["common seeds"]] == [6, "2"]
    assert pairs["mean_teacher", "xpl"]["difference (95 % interval)"] == "-20.0 (-100.0 to 100.0)"
    tied = pairs["mean_teacher", "dmt"]
    assert tied["first is"] == "not told apart"
    assert int(tied["more seeds"]) > 0
    assert tied["or more test clips"] == "no number"
    answer = (base / "report" / "comparison.md").read_text().splitlines()[1]
    assert "mean_teacher, +45.0" in answer
    assert "not told apart from dmt" in answer
    assert "xpl with fewer seeds" in answer
    rows = {row["model"]: row["which seeds"] for row in _read(base / "report" / "comparison.csv")}
    assert (rows["xpl"], rows["mean_teacher"]) == ("0, 2", "0, 1, 2")


def test_one_seed_gives_no_verdict(base: Path) -> None:
    """Differences and intervals are of rows alone, and the report says so."""
    for stage, seed in product(("evaluate", "train"), ("1", "2")):
        for folder in base.glob(f"{stage}/*/*/{seed}"):
            shutil.rmtree(folder)
    report([f"root={base.parent}", "data=synthetic"])
    (pair,) = _read(base / "report" / "pairs.csv")
    assert (pair["first is"], pair["SD"], pair["common seeds"], pair["more seeds"]) == ("no verdict", "", "1", "")
    assert pair["difference (95 % interval)"].startswith("+25.0 (")
    assert {row["SD"] for row in _read(base / "report" / "comparison.csv")} == {""}
    assert says((base / "report" / "comparison.md").read_text().splitlines()[1], "no verdict one seed")
    assert says((base / "report" / "report.html").read_text(), "matrix.seeds")


def test_evaluations_of_other_rows_are_not_compared(base: Path) -> None:
    """A seed that was scored on other test rows is named."""
    path = base / "evaluate" / "0.1" / "supervised-ezvsl" / "1" / "per_sample.csv"
    path.write_text(path.read_text().replace("t7,", "other,"))
    with pytest.raises(DataError, match=facts(path)):
        report([f"root={base.parent}", "data=synthetic"])


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
    summary = json.loads((made / "summary.json").read_text())["cells"]
    for framework, ratio, ciou in cells:
        stated = summary[f"{framework}-ezvsl@{ratio}"]
        assert (stated["ciou"], stated["sd"], stated["seeds"]) == (pytest.approx(ciou), pytest.approx(0.05), [0, 1, 2])
        assert stated["boxed_offscreen"] == pytest.approx(0.3)
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
    path = base / "evaluate" / "0.1" / "dmt-ezvsl" / "1" / "metrics.json"
    figures = json.loads(path.read_text())
    figures["test"] = {"n": 0, "n_silent": 40, "n_listed": 44, "false_positive_rate": 0.5}
    path.write_text(json.dumps(figures))
    with pytest.raises(DataError, match=facts("metrics.json 'test'")):
        report([f"root={base.parent}", "data=synthetic"])


def test_trainings_of_other_settings_are_marked(base: Path, made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A column that is there only where trainings differ in it; another model's evaluation is left out."""
    assert not {"settings", "which seeds"} & set(_read(made / "comparison.csv")[0])
    for cell, seeds, epochs in (("0.1", "2", 7), ("0.03", "*", 9)):
        for path in (base / "train" / cell / "dmt-ezvsl").glob(f"{seeds}/config.yaml"):
            changes = {"trainer": {"epochs": epochs}, "parallel": {"cpus": epochs}}
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    folder = base / "train" / "0.1" / "supervised-ezvsl" / "2"
    RunRecord.load(folder).model_copy(update={"model_hash": "later"}).save(folder)
    report([f"root={base.parent}", "data=synthetic"])
    rows = _read(base / "report" / "comparison.csv")
    assert [(row["model"], row["settings"], row["which seeds"]) for row in rows[:4]] == [
        ("dmt", "trainer.epochs=9", "0, 1, 2"),
        ("dmt", "trainer.epochs=2 or 7", "0, 1, 2"),
        ("supervised", "trainer.epochs=2", "0, 1"),
        ("supervised", "trainer.epochs=2", "0, 1, 2"),
    ]
    assert "supervised-ezvsl/2" in caplog.text
