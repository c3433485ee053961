"""Answers of annotators become the annotation file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.annotation_tools import EXPORTS, Boxes
from tests.fixtures.messages import says

from avsl.config.compose import compose
from avsl.data.annotation_files import as_boxes
from avsl.data.datasets.folder import read_index
from avsl.errors import DataError
from avsl.labels.answers import import_answers
from avsl.labels.export import export
from avsl.labels.suggest import suggest
from avsl.labels.tasks import read_frames
from avsl.labels.tools.task import Task

Written = dict[str, list[list[float]] | None]


@pytest.fixture
def tasks(clips: Path, settings: list[str]) -> list[Task]:
    """The tasks of a first round of four clips and three for testing."""
    suggest(settings, budget=4)
    export(settings, "csv")
    return [Task(f.id, f.file, f.width, f.height, as_boxes([])) for f in read_frames(Path("labels")).values()]


@pytest.fixture
def annotated(settings: list[str]) -> Callable[[], Written]:
    """What ``data=folder`` reads from the annotation file: boxes in pixels by clip; None for who has none."""

    def read() -> Written:
        config = compose([*settings, "data.folder.annotations=annotations.csv"]).data.settings
        found = {entry.sample_id: entry.boxes for entry in read_index(config).entries}  # type: ignore[arg-type]  # a folder's
        return {name: None if b is None else (b * (96, 64, 96, 64)).tolist() for name, b in found.items()}

    return read


def _answer(tasks: list[Task]) -> dict[str, Boxes]:
    """Boxes at odd pixels; the second task is silent."""
    boxes = [(3.0 + k, 5.0, 71.0, 63.0 - k) for k in range(len(tasks))]
    return {task.id: [] if k == 1 else [boxes[k], (0.0, 0.0, 7.0, 9.0)] for k, task in enumerate(tasks)}


@pytest.mark.parametrize(("tool", "zipped"), [*((tool, False) for tool in EXPORTS), ("cvat", True)])
def test_boxes_come_back_to_the_pixel(
    tool: str, zipped: bool, tasks: list[Task], settings: list[str], annotated: Callable[[], Written], tmp_path: Path
) -> None:
    """From every format, also zipped, and again without a change."""
    file, write = EXPORTS[tool]
    answers = _answer(tasks)
    path = write(tmp_path / file, tasks, answers)
    if zipped:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
            archive.write(path, f"annotations/{file}")
            archive.writestr("images/a.jpg", b"x")
        path = tmp_path / "export.zip"
    written = import_answers(settings, [path])
    found = annotated()
    for name, boxes in answers.items():
        np.testing.assert_allclose(as_boxes(found[name] or []), as_boxes(boxes), atol=1e-6)
        assert found[name] is not None
    content = written.read_bytes(), Path("labels/answers.csv").read_bytes()
    import_answers(settings, [path])
    assert content == (written.read_bytes(), Path("labels/answers.csv").read_bytes())


def test_files_in_other_conventions_keep_them(
    tasks: list[Task], settings: list[str], clips: Path, tmp_path: Path
) -> None:
    """An annotation file in pixels, with corner and size; what was in it stays."""
    other = next(path.stem for path in sorted(clips.iterdir()) if path.stem not in {task.id for task in tasks})
    (clips / "boxes.csv").write_text(f"file,class,x,y,width,height\n{other}.mp4,dog,1,2,30,40\n")
    kept = [*settings, "data.folder.annotations=boxes.csv", "data.folder.units=pixels", "data.folder.boxes=xywh"]
    file, write = EXPORTS["cvat"]
    import_answers(kept, [write(tmp_path / file, tasks[:1], {tasks[0].id: [(3.0, 5.0, 71.0, 63.0)]})])
    rows = (clips / "boxes.csv").read_text().splitlines()
    assert rows[0] == "file,class,x,y,width,height,recording"
    assert rows[1] == f"{other},dog,1,2,30,40,"
    assert rows[2] == f"{tasks[0].id},sound,3,5,68,58,{tasks[0].id.partition('_')[0]}"


def test_annotators_are_merged_over_imports(
    tasks: list[Task],
    settings: list[str],
    annotated: Callable[[], Written],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second person's file meets the first one's; without agreement a clip has no boxes; a correction replaces."""
    name, other = tasks[0].id, tasks[1].id
    _, write = EXPORTS["label-studio"]
    first = write(tmp_path / "one.json", tasks, {name: [(10, 10, 50, 50)], other: []}, by={"email": "a@x"})
    import_answers(settings, [first])
    second = write(tmp_path / "two.json", tasks, {name: [(30, 10, 70, 50)], other: [(0, 0, 9, 9)]}, by=2)
    import_answers(settings, [second])
    assert annotated()[name] == pytest.approx(np.array([[30, 10, 50, 50]]))
    assert annotated()[other] is None
    assert says(caplog.text, f"{other}")
    shown = capsys.readouterr().out
    assert says(shown, "2 0.17 0.00")
    assert "removed" in shown
    corrected = write(tmp_path / "two.json", tasks, {name: [(10, 10, 50, 52)], other: []}, by=2)
    import_answers(settings, [corrected], "vote")
    assert annotated()[name] == pytest.approx(np.array([[10, 10, 50, 51]]))
    assert annotated()[other] == []


@pytest.mark.parametrize(
    ("boxes", "named"),
    [
        ([(3, 5, 98, 60)], r"\[3, 5, 98, 60\] leaves the frame of 96 x 64"),
        ([(3, 5, 3, 60)], "covers less than a pixel"),
        ([(30, 5, 3, 60)], "covers less than a pixel"),
        ([(float("nan"), 5, 3, 60)], "is no box"),
    ],
)
def test_a_box_that_cannot_be_is_refused_and_nothing_is_written(
    boxes: Boxes, named: str, tasks: list[Task], settings: list[str], clips: Path, tmp_path: Path
) -> None:
    """With the file, the frame and the box."""
    file, write = EXPORTS["label-studio"]
    path = write(tmp_path / file, tasks, {tasks[0].id: [(1, 1, 9, 9)], tasks[1].id: boxes})
    with pytest.raises(DataError, match=f"1 of 7 answers.*'{tasks[1].id}'.*{named}") as caught:
        import_answers(settings, [path])
    assert str(path) in str(caught.value)
    assert not (clips / "annotations.csv").exists()
    assert not Path("labels/answers.csv").exists()


def test_unknown_frames_sizes_and_double_answers_are_refused(
    tasks: list[Task], settings: list[str], tmp_path: Path
) -> None:
    """So is a frame with boxes that is also said to be silent, and a file of no known format."""
    _, write = EXPORTS["cvat"]

    def refused(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            import_answers(settings, [path])
        return str(caught.value)

    stranger = Task("x", "x", 96, 64, as_boxes([]))
    assert "task" in refused(write(tmp_path / "a.xml", [stranger], {"x": []}))
    larger = Task(tasks[0].id, tasks[0].file, 192, 128, as_boxes([]))
    assert says(refused(write(tmp_path / "b.xml", [larger], {larger.id: []})), "192 x 128 96 x 64")
    twice = write(tmp_path / "c.xml", [tasks[0], tasks[0]], {tasks[0].id: []})
    assert says(refused(twice), "'annotator' twice")
    both = write(tmp_path / "d.xml", tasks[:1], {tasks[0].id: [(1, 1, 9, 9)]})
    both.write_text(both.read_text().replace("</image>", '<tag label="nothing in view sounds"/></image>'))
    assert says(refused(both), "boxes nothing")
    unknown = tmp_path / "e.json"
    unknown.write_text('{"shapes": []}')
    assert says(refused(unknown), "e.json")
    assert says(refused(tmp_path / "f.json"), "f.json")


def test_boxes_are_cut_at_the_edge_and_kept_once(
    tasks: list[Task],
    settings: list[str],
    annotated: Callable[[], Written],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What rounding adds is cut off; the same box twice is one, with a warning."""
    file, write = EXPORTS["cvat"]
    boxes = [(-0.4, 5.0, 96.3, 60.0), (-0.4, 5.2, 96.3, 60.0)]
    import_answers(settings, [write(tmp_path / file, tasks[:1], {tasks[0].id: boxes})])
    assert annotated()[tasks[0].id] == pytest.approx(np.array([[0, 5, 96, 60]]))
    assert "twice" in caplog.text


def test_without_an_export_there_is_nothing_to_import(clips: Path, settings: list[str], tmp_path: Path) -> None:
    """The error names the command."""
    with pytest.raises(DataError, match="avsl labels export"):
        import_answers(settings, [tmp_path / "x.json"])


def test_class_folders_give_the_class(clips: Path, settings: list[str], tmp_path: Path) -> None:
    """A stratified round of two classes comes back with the classes of its folders."""
    for k, path in enumerate(sorted(clips.iterdir())):
        folder = clips / ("cat", "dog")[k // 2 % 2]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    rounds = suggest(settings, 4, "stratified")
    export(settings, "coco")
    frames = read_frames(Path("labels")).values()
    assert all("/" in frame.id and "/" not in frame.file for frame in frames)
    tasks = [Task(f.id, f.file, f.width, f.height, as_boxes([])) for f in frames]
    file, write = EXPORTS["coco"]
    import_answers(settings, [write(tmp_path / file, tasks, {task.id: [(1.0, 2.0, 30.0, 40.0)] for task in tasks})])
    lines = (clips / "annotations.csv").read_text().splitlines()[1:]
    assert len(lines) == len(tasks) > 4
    for line in lines:
        name, label, *_, recording = line.split(",")
        assert name == f"{label}/{name.partition('/')[2]}"
        assert f"{name},{recording}," in rounds.read_text() + Path("labels/test.csv").read_text()
