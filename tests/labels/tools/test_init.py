"""Every annotation tool: what is written can be read by it, and what it writes is read back."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.fixtures.annotation_tools import EXPORTS

from avsl.data.annotation_files import as_boxes
from avsl.errors import DataError
from avsl.labels.tools import TOOLS
from avsl.labels.tools.task import Task

_TASKS = [
    Task("dog/a b", "dog_a_b", 640, 361, as_boxes([[3, 5, 100, 360], [0, 0, 7, 9]]), "m"),
    Task("c", "c", 33, 17, as_boxes([])),
    Task("d", "d", 33, 17, as_boxes([])),
]
_ANSWERS = {"dog/a b": [(3.0, 5.0, 100.0, 360.0), (11.0, 13.0, 639.0, 361.0)], "c": []}
_BY_FRAME = {"dog_a_b.jpg": "dog/a b", "c.jpg": "c", "d.jpg": "d"}


@pytest.mark.parametrize("name", TOOLS)
def test_answers_come_back_to_the_pixel(name: str, tmp_path: Path) -> None:
    """Boxes, the answer that nothing sounds, and a frame that nobody answered."""
    file, write = EXPORTS[name]
    path = write(tmp_path / file, _TASKS, _ANSWERS)
    assert [other for other, tool in TOOLS.items() if tool.recognizes(path)] == [name]
    answers = {_BY_FRAME.get(answer.frame, answer.frame): answer for answer in TOOLS[name].read(path)}
    np.testing.assert_allclose(answers["dog/a b"].boxes, _ANSWERS["dog/a b"], atol=1e-9)
    assert (answers["c"].boxes, answers["c"].silent) == ([], True)
    assert name == "csv" or (answers["d"].boxes, answers["d"].silent) == ([], False)
    assert not any(answer.problem for answer in answers.values())


@pytest.mark.parametrize("name", TOOLS)
def test_a_models_boxes_are_written_for_correction(name: str, tmp_path: Path) -> None:
    """What is written holds every frame and the boxes; what to do with it is said."""
    assert TOOLS[name].write(tmp_path, _TASKS)
    names = {"label-studio": "tasks.json", "coco": "annotations.json", "cvat": "annotations.xml", "csv": "boxes.csv"}
    written = tmp_path / names[name]
    if name == "label-studio":
        tasks = json.loads(written.read_text())
        for task in tasks:  # a prediction that is accepted as it is becomes an annotation
            task["annotations"] = task.pop("predictions", [])
        written.write_text(json.dumps(tasks))
    boxes = {_BY_FRAME.get(Path(a.frame).name, a.frame): a.boxes for a in TOOLS[name].read(written)}
    np.testing.assert_allclose(boxes.pop("dog/a b"), _TASKS[0].boxes, atol=1e-9)
    assert not any(boxes.values())


def test_coco_has_the_fields_of_the_published_format(tmp_path: Path) -> None:
    """As COCO's detection format names them; ids are numbers from 1 on, and areas those of the boxes."""
    TOOLS["coco"].write(tmp_path, _TASKS)
    document = json.loads((tmp_path / "annotations.json").read_text())
    assert {"info", "images", "annotations", "categories"} <= document.keys()
    for image in document["images"]:
        assert {"id", "width", "height", "file_name"} <= image.keys()
    for k, annotation in enumerate(document["annotations"], start=1):
        assert annotation.keys() == {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
        assert (annotation["id"], annotation["area"]) == (k, annotation["bbox"][2] * annotation["bbox"][3])
    assert all({"id", "name", "supercategory"} == category.keys() for category in document["categories"])


def test_coco_is_read_by_its_own_library(tmp_path: Path) -> None:
    """Frames, categories and boxes are those of the tasks."""
    coco = pytest.importorskip("pycocotools.coco")
    TOOLS["coco"].write(tmp_path, _TASKS)
    read = coco.COCO(str(tmp_path / "annotations.json"))
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == [task.frame for task in _TASKS]
    (sound,) = read.getCatIds(catNms=["sound"])
    for number, task in enumerate(_TASKS, start=1):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[number], catIds=[sound]))
        corners = [[x, y, x + width, y + height] for x, y, width, height in (a["bbox"] for a in annotations)]
        np.testing.assert_array_equal(as_boxes(corners), task.boxes)


def test_cvat_has_the_elements_of_the_published_format(tmp_path: Path) -> None:
    """As "CVAT for images 1.1" names them; readers other than CVAT refuse a file without the task and its labels."""
    TOOLS["cvat"].write(tmp_path, _TASKS)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert [element.tag for element in root] == ["version", "meta", *["image"] * 3]
    assert (root.findtext("version"), root.findtext("meta/task/size")) == ("1.1", "3")
    assert root.findtext("meta/task/mode") == "annotation"
    stated = [(label.findtext("name"), label.findtext("type")) for label in root.iterfind("meta/task/labels/label")]
    pasted = json.loads((tmp_path / "labels.json").read_text())
    assert stated == [(label["name"], label["type"]) for label in pasted]
    assert stated == [("sound", "rectangle"), ("nothing in view sounds", "tag")]
    for k, (image, task) in enumerate(zip(root.iterfind("image"), _TASKS, strict=True)):
        size = {"width": str(task.width), "height": str(task.height)}
        assert image.attrib == {"id": str(k), "name": f"{task.file}.jpg"} | size
        for box in image:
            assert box.attrib.keys() == {"label", "source", "occluded", "xtl", "ytl", "xbr", "ybr", "z_order"}
            assert box.get("label") == "sound"


def test_label_studios_interface_names_what_the_tasks_hold(tmp_path: Path) -> None:
    """Controls point to the image and to values of the tasks' data; predictions to the controls."""
    TOOLS["label-studio"].write(tmp_path, _TASKS)
    interface = ElementTree.parse(tmp_path / "interface.xml").getroot()
    (task, *_) = json.loads((tmp_path / "tasks.json").read_text())
    assert {"audio", "image"} == {e.get("value", "$")[1:] for e in interface if e.get("value", "").startswith("$")}
    assert task["data"]["audio"].endswith(f"{tmp_path.name}/sounds/dog_a_b.wav")
    (region, *_) = task["predictions"][0]["result"]
    control = interface.find(f"RectangleLabels[@name='{region['from_name']}']")
    assert control is not None
    assert control.get("toName") == region["to_name"] == "image"
    assert [label.get("value") for label in control] == region["value"]["rectanglelabels"]


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("a.json", '[{"data": {"id": "c"}}]', "task 0, data.width"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}], "categories": []}', "annotations.0.category_id"),
        (
            "a.json",
            '{"images": [], "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1,2,3,4]}], "categories": []}',
            "image 1",
        ),
        ("a.xml", '<annotations><image name="c" width="3" height="x"/></annotations>', "image 'c'"),
        ("a.xml", "<annotations><image", "not well-formed"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "document type"),
        ("a.json", "{", "not valid JSON"),
    ],
)
def test_a_damaged_export_is_named(file: str, content: str, named: str, tmp_path: Path) -> None:
    """By the place and the key."""
    path = tmp_path / file
    path.write_text(content)
    with pytest.raises(DataError, match=named) as caught:
        [tool.read(path) for tool in TOOLS.values() if tool.recognizes(path)]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("label-studio", '{"type": "polygonlabels", "value": {}}', "polygonlabels"),
        (
            "label-studio",
            '{"type": "rectangle", "value": {"x": 1, "y": 1, "width": 2, "height": 2, "rotation": 30}}',
            "30",
        ),
        ("cvat", '<polygon label="sound" points="1,2;3,4"/>', "polygon"),
        ("cvat", '<box xtl="1" ytl="1" xbr="3" ybr="3" rotation="12.5"/>', "12.5"),
    ],
)
def test_what_is_no_upright_box_is_a_problem(name: str, content: str, problem: str, tmp_path: Path) -> None:
    """It is said of the answer, for all answers to be checked before one is refused."""
    file, write = EXPORTS[name]
    path = write(tmp_path / file, _TASKS[1:2], {"c": []})
    if name == "cvat":
        path.write_text(path.read_text().replace("</image>", f"{content}</image>"))
    else:
        (task,) = json.loads(path.read_text())
        task["annotations"][0]["result"].append(json.loads(content))
        path.write_text(json.dumps([task]))
    (answer,) = TOOLS[name].read(path)
    assert problem in answer.problem


def test_label_studios_cancelled_annotations_are_no_answers(tmp_path: Path) -> None:
    """A skipped task counts as not answered."""
    file, write = EXPORTS["label-studio"]
    path = write(tmp_path / file, _TASKS[:1], _ANSWERS)
    (task,) = json.loads(path.read_text())
    task["annotations"][0]["was_cancelled"] = True
    path.write_text(json.dumps([task]))
    (answer,) = TOOLS["label-studio"].read(path)
    assert (answer.boxes, answer.silent) == ([], False)
