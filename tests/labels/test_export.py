"""Task folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.fixtures.media import SIZE, pitch
from tests.fixtures.messages import facts

from avsl.errors import DataError
from avsl.inference.predictor import Predictor
from avsl.labels.export import export
from avsl.labels.suggest import suggest
from avsl.labels.tools import TOOLS
from avsl.schema import ConfigError


@pytest.mark.parametrize("tool", TOOLS)
def test_a_task_folder_has_each_frame_with_its_sound(clips: Path, settings: list[str], tool: str) -> None:
    """Full resolution, the clip's own tone, and a page that plays it; the same export gives the same files."""
    suggest(settings, budget=4)
    out = export([*settings, "data.folder.duration_s=0.5"], tool)
    assert out == Path("outputs/folder/labels", f"{tool}-01")
    with Path("labels/tasks.csv").open() as file:
        tasks = list(csv.DictReader(file))
    assert len(tasks) == 7
    for task in tasks:
        assert Image.open(out / "frames" / f"{task['file']}.jpg").size == SIZE[::-1] == (96, 64)
        sound, rate = soundfile.read(out / "sounds" / f"{task['file']}.wav")
        assert len(sound) == rate / 2
        number = 2 * "abcdefghij".index(task["id"][5]) + int(task["id"][7])
        assert pitch(sound, rate) == pytest.approx(200 + 150 * number, abs=4)
    page = (out / "index.html").read_text()
    linked = [dict(tag)["src"] for tag in _tags(page) if "src" in dict(tag)]
    assert len(linked) == 14
    assert all((out / str(link)).is_file() for link in linked)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    export([*settings, "data.folder.duration_s=0.5"], tool)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def _tags(page: str) -> list[list[tuple[str, str | None]]]:
    found: list[list[tuple[str, str | None]]] = []

    class _Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(attrs)

    _Parser().feed(page)
    return found


def test_a_models_boxes_go_along_except_for_the_test_part(
    clips: Path, settings: list[str], save_model: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """To the nearest pixel those that the model finds."""
    suggest(settings, budget=4)
    model = save_model(tmp_path / "model", 1)
    described = json.loads((model / "model.json").read_text())
    frame, sound = np.zeros((64, 96, 3), np.uint8), np.ones(8000, np.float32) / 2
    peak = float(Predictor.load(model).predict([frame], [sound])[0].map.max())
    (model / "model.json").write_text(json.dumps(described | {"threshold": peak / 4}))
    out = export(settings, "label-studio", str(model))
    tests = {line.partition(",")[0] for line in Path("labels/test.csv").read_text().splitlines()}
    tasks = {task["data"]["id"]: task for task in json.loads((out / "tasks.json").read_text())}
    assert len(tasks) == 7
    assert {name for name, task in tasks.items() if "predictions" in task} == tasks.keys() - tests
    task = next(task for task in tasks.values() if "predictions" in task)
    assert task["predictions"][0]["model_version"] == str(model)
    for region in task["predictions"][0]["result"]:
        pixels = region["value"]["x"] / 100 * 96, region["value"]["height"] / 100 * 64
        np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-9)


def test_annotated_clips_are_no_tasks(clips: Path, settings: list[str]) -> None:
    """Their frames of an earlier export go; where nothing is left to annotate, that is said."""
    suggest(settings, budget=4)
    out = export(settings, "coco")
    with Path("labels/tasks.csv").open() as file:
        first, *others = [row["id"] for row in csv.DictReader(file)]
    table = clips / "annotations.csv"
    table.write_text("file,class,x0,y0,x1,y1\n" + f"{first},c,0,0,1,1\n")
    export(settings, "coco")
    assert {path.stem for path in (out / "frames").iterdir()} == set(others)
    table.write_text("file,class,x0,y0,x1,y1\n" + "".join(f"{name},c,0,0,1,1\n" for name in (first, *others)))
    with pytest.raises(DataError, match="avsl labels suggest"):
        export(settings, "coco")


def test_an_unknown_tool_is_named(clips: Path, settings: list[str]) -> None:
    """With those that are known."""
    with pytest.raises(ConfigError, match=facts("'via' coco csv cvat label-studio")):
        export(settings, "via")
