"""The page: what stands in it, that it needs nothing else, and that the gallery's rows are chosen by rule."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.messages import facts, says

from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.report.page import Section, Table, render
from avsl.report.tables import report

Cells = tuple[tuple[str, float, float], ...]


class _Page(HTMLParser):
    """What a reader of the page gets: headings, tables by caption, pictures, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scopes: list[str | None] = []
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self._within = ""
        self._rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self._within = tag
        self.addresses += [value for key in ("src", "href", "srcset", "data") if (value := known.get(key))]
        if tag == "img":
            self.pictures.append(known)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag == "th":
            self.scopes.append(known.get("scope"))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if self._within == "h2":
            self.headings.append(data)
        if self._within == "caption":
            self.tables[data] = self._rows
        if self._within in ("td", "th"):
            self._rows[-1][-1] += data


@pytest.fixture(scope="session")
def page(made: Path) -> _Page:
    """The page of four evaluations, read."""
    return _Page((made / "report.html").read_text())


def test_it_needs_nothing_else(page: _Page, made: Path) -> None:
    """Every address is inside the page, and its policy forbids any other; nothing is run."""
    assert len(page.addresses) > 10
    assert all(address.startswith(("#section-", "data:")) for address in page.addresses)
    text = (made / "report.html").read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_every_picture_says_what_it_shows_and_every_head_what_it_heads(page: _Page) -> None:
    """Alternative texts differ and are there; heads of rows and columns have their scope."""
    alternatives = [picture["alt"] for picture in page.pictures]
    assert len(page.pictures) == 4 + 3  # seeds, accuracy, validation, pseudo-labels; a gallery for each ratio
    assert len(set(alternatives)) == len(alternatives)
    assert all(alternatives)
    assert set(page.scopes) == {"col", "row"}


def test_its_sections_have_all_that_the_comparison_has(page: _Page, made: Path) -> None:
    """The tables are comparison.csv's and pairs.csv's; it opens with the answers; controls follow from figures."""
    assert page.headings == [
        "Which is better",
        "Accuracy",
        "Frameworks and objectives",
        "Controls and ceiling",
        "Where it works and where not",
        "Training",
        "Pictures",
        "Data",
        "How each model was made",
    ]
    (caption,) = (caption for caption in page.tables if caption.startswith("Test part, per cent, "))
    lines = (made / "comparison.csv").read_text().splitlines()
    assert len(page.tables[caption]) == len(lines)
    assert page.tables[caption][1][:3] == lines[1].split(",")[:3] == ["dmt", "ezvsl", "3 % (12)"]
    (caption,) = (caption for caption in page.tables if caption.startswith("Pairs at "))
    assert page.tables[caption][1][:3] == (made / "pairs.csv").read_text().splitlines()[1].split(",")[1:4]
    controls = page.tables["Test part, per cent"]
    assert controls[2] == ["dmt", "10 %", "50.0", "50.9", "-0.9", "2.0", "4.0", "30.0", "40.0", "67 %"]
    assert controls[4] == ["supervised", "100 %", "75.0", "75.9", "-0.9", "2.0", "4.0", "30.0", "", "100 %"]
    text = re.sub(r"\s+", " ", (made / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " "))
    answers = (made / "comparison.md").read_text().replace("\N{NO-BREAK SPACE}", " ").splitlines()[:3]
    assert [answer.partition(" (")[0] for answer in answers] == [
        "- 3 %: dmt, 12.5",
        "- 10 %: dmt, +25.0",
        "- 100 %: supervised, 75.0",
    ]
    assert all(f"<p>{answer[2:]}</p>" in text for answer in answers)


def test_frameworks_stand_over_objectives(page: _Page, base: Path, add_evaluation: Callable[..., None]) -> None:
    """A table for each ratio with what needs no model and the ceiling; several objectives name the models too."""

    def scores(of: _Page, ratio: str) -> list[list[str]]:
        table = of.tables[f"Test CIoU at {ratio} labels, per cent"]
        return [[cell.partition(" (")[0] for cell in row] for row in table]

    aside = [["whole image", "1.0"], ["centered disc", "6.2"], ["the best with all labels", "75.0"]]
    assert scores(page, "3 %") == [["framework", "ezvsl"], ["dmt", "12.5"], *aside]
    assert scores(page, "10 %")[1:3] == [["dmt", "50.0"], ["supervised", "25.0"]]

    add_evaluation("dmt", 0.1, 0.625, "fnac")
    report([f"root={base.parent}", "data=synthetic"])
    more = _Page((base / "report" / "report.html").read_text())
    assert scores(more, "3 %")[:2] == [["framework", "ezvsl", "fnac"], ["dmt", "12.5", ""]]
    assert scores(more, "10 %")[1:3] == [["dmt", "50.0", "62.5"], ["supervised", "25.0", ""]]
    assert scores(more, "10 %")[-1] == ["the best with all labels", "75.0", "75.0"]
    (cell,) = (row[1] for row in more.tables["Test CIoU at 10 % labels, per cent"] if row[0] == "supervised")
    low, high = map(float, re.findall(r"[\d.]+", cell)[1:])
    assert 0 < low < 25 < high < 50
    names = ["dmt + ezvsl 3 %", "dmt + ezvsl 10 %", "dmt + fnac 10 %", "supervised + ezvsl 10 %"]
    assert more.tables["By test part"][0][2:-1] == names
    summary = json.loads((base / "report" / "summary.json").read_text())
    assert [summary["cells"][f"dmt-{name}@0.1"]["ciou"] for name in ("ezvsl", "fnac")] == pytest.approx([0.5, 0.625])


def test_break_downs_are_rows_by_models(page: _Page) -> None:
    """Parts, sizes and classes; silent parts by their false positives; what a class's name holds is escaped."""
    parts = page.tables["By test part"]
    assert parts[0] == ["rows", "n", "dmt 3 %", "dmt 10 %", "supervised 10 %", "supervised 100 %"]
    assert ["test", "40", "12.5", "50.0", "25.0", "75.0"] in parts
    assert ["no source in view, false positives", "15", *["20.0"] * 4] in parts
    assert page.tables["By size of the source, test part"][1] == ["small", "8", "6.2", "25.0", "12.5", "37.5"]
    assert page.tables["By class, test part (1 classes)"][1][0] == "dog, <barking>"


def test_the_data_card_counts_what_is_there(page: _Page, made: Path) -> None:
    """Rows by part, labels by ratio; a generated set has nothing to miss."""
    assert ["train", "40", "40", "0", "40"] in page.tables["Rows by part"]
    drawn = page.tables["Labels by ratio and seed"]
    assert [row[:5] for row in drawn[1::3]] == [
        ["3 %", "1", "39", "12", "0"],
        ["10 %", "4", "36", "12", "0"],
        ["100 %", "40", "0", "12", "0"],
    ]
    split = json.loads((made.parent / "split" / "0.1" / "2.json").read_text())
    assert drawn[6][-2:] == ["2", split["content_hash"]]
    assert says((made / "report.html").read_text(), "missing quarantined leaked")


def test_every_model_says_how_it_was_made(page: _Page, cells: Cells) -> None:
    """The command and the hashes of run.json, all of them."""
    for (framework, ratio, _), seed in product(cells, range(3)):
        said = dict(page.tables[f"{framework}, {100 * ratio:g} % labels, seed {seed}"][1:])
        assert said["command"] == f"avsl train framework={framework} split.label_ratio={ratio}"
        for title, key in (("configuration", "config_hash"), ("code", "code_hash"), ("git commit", "git_commit")):
            assert said[title] == f"{key} of {framework} at {ratio}"


def test_the_gallery_shows_best_median_and_worst(base: Path) -> None:
    """Ranked by the mean cIoU of the ratio's models, each with its best seed; rows without a source have no rank."""
    order = np.random.default_rng(0).permutation(11)
    for framework, sign in (("dmt", 1), ("supervised", 0.5)):
        path = base / "evaluate" / "0.1" / f"{framework}-ezvsl" / "2" / "validation.npz"
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["ciou"] = np.append(sign * order / 20, np.nan).astype(np.float32)
        arrays["confidence"] = np.zeros_like(arrays["confidence"])
        np.savez(path, **arrays)
    report([f"root={base.parent}", "data=synthetic"])
    page = _Page((base / "report" / "report.html").read_text())
    address = next(p["src"] for p in page.pictures if "10 % labels" in str(p["alt"]).replace("\N{NO-BREAK SPACE}", " "))
    with Image.open(io.BytesIO(base64.b64decode(str(address).partition(",")[2]))) as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(float)
    data = PreparedData.open(base / "prepared")
    validation = data.indices("validation")
    ranks = [10, 9, 8, 6, 5, 4, 2, 1, 0]  # by falling score: the best, around the median, the worst
    step = (sheet.shape[0] - 20) // 9
    for place, rank in enumerate(ranks):
        number = validation[int(np.flatnonzero(order == rank)[0])]
        frame = Image.fromarray(data.frames(np.array([number]))[0]).resize((176, 176), Image.Resampling.BICUBIC)
        top = 20 + place * step + 20
        shown = sheet[top : top + 176, 6 : 6 + 176]
        assert np.abs(shown - np.asarray(frame)).mean() < 12  # JPEG


def test_what_is_missing_or_does_not_fit_is_one_sentence(base: Path) -> None:
    """An evaluation without its maps; one of other rows."""
    path = base / "evaluate" / "0.1" / "supervised-ezvsl" / "2" / "validation.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | {"sample_id": arrays["sample_id"][::-1]})
    with pytest.raises(DataError, match=facts("0.1 'supervised'")):
        report([f"root={base.parent}", "data=synthetic"])
    path.unlink()
    with pytest.raises(DataError, match=facts("supervised-ezvsl/2/validation.npz")):
        report([f"root={base.parent}", "data=synthetic"])


def test_quarantine_and_leaks_are_counted(base: Path) -> None:
    """Of a set that lists name: by reason and by the part that holds the row."""
    prepared = base / "prepared"
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["expected"] = manifest["counts"] | {"test": 5}
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    (prepared / "quarantine.csv").write_text('sample_id,reason\nx,no sound\ny,"too short, cut"\n')
    (prepared / "leaks.csv").write_text("sample_id,part,shares\nz,test,row\n")
    report([f"root={base.parent}", "data=synthetic"])
    page = _Page((base / "report" / "report.html").read_text())
    assert ["test", "5", "3", "2", "3"] in page.tables["Rows by part"]
    (reasons,) = (rows for caption, rows in page.tables.items() if caption.startswith("Quarantined"))
    assert sorted(reasons[1:]) == [["no sound", "1"], ["too short, cut", "1"]]
    (leaks,) = (rows for caption, rows in page.tables.items() if caption.startswith("Leaks"))
    assert leaks[1:] == [["test", "1"]]


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    """A cell too few would shift figures under another head."""
    table = Table("figures", ("model", "CIoU"), [["dmt", "1"], ["xpl"]])
    with pytest.raises(ValueError, match=facts("'figures' 2 1")):
        render("title", [], [Section("section", tables=[table])])


def test_the_same_outputs_give_the_same_page(made: Path, base: Path) -> None:
    """To the byte: no date, no random name."""
    report([f"root={base.parent}", "data=synthetic"])
    assert (base / "report" / "report.html").read_bytes() == (made / "report.html").read_bytes()


def test_searches_say_how_much_of_the_first_score_was_luck(base: Path, page: _Page) -> None:
    """A table for each search that has confirmed its best trials; without one there is no such section."""
    assert "Searches" not in page.headings
    result = {
        "label_ratio": 0.1,
        "trials": [{"number": 4, "framework": "dmt"}, {"number": 7, "framework": "xpl"}],
        "confirmed": [{"trial": 7, "scores": {"0": 0.5, "1": 0.375, "2": 0.25}, "mean": 0.375, "luck": 0.1875}],
    }
    path = base.parent / "sweep" / "full" / base.name / "search" / "0.1" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result))
    report([f"root={base.parent}", "data=synthetic"])
    again = _Page((base / "report" / "report.html").read_text())
    (table,) = (rows for caption, rows in again.tables.items() if says(caption, "full 10 %"))
    assert table[1:] == [["7", "xpl", "50.0", "3", "37.5", "+18.8"]]


def test_learning_curves_answer_how_many_labels_are_enough(
    base: Path, page: _Page, add_evaluation: Callable[..., None]
) -> None:
    """Of models with three numbers of labels; the curve, the answer, and how far such forecasts were off."""
    assert "How many labels are enough" not in page.headings
    for seed in range(3):
        add_evaluation("dmt", 1.0, 0.7, seed=seed)
    report([f"root={base.parent}", "data=synthetic"])
    text = (base / "report" / "report.html").read_text()
    again = _Page(text)
    assert "How many labels are enough" in again.headings
    assert any("curve" in str(p["alt"]) and str(p["alt"]).endswith("dmt") for p in again.pictures)
    (caption,) = (caption for caption in again.tables if says(caption, "4 times guess"))
    (row,) = again.tables[caption][1:]
    assert row[:4] == ["dmt", "9", "400", "0.700"]
    assert re.search(r"<p>dmt: CIoU 0\.6 needs \d+ \(\d+ to \S+\) labels; 400 more than 400 .*takes 4 numbers", text)
    assert not any("of the past" in caption for caption in again.tables)
