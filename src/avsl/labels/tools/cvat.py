"""CVAT's own format, "CVAT for images 1.1" (https://docs.cvat.ai/docs/other/xml_format)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from avsl.errors import DataError
from avsl.files import write_json, write_text
from avsl.labels.tools.documents import read_xml
from avsl.labels.tools.task import FRAMES, SILENT, SOUND, Answer, Task, Tool

_FILE, _LABELS = "annotations.xml", "labels.json"
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_TYPES = {SOUND: "rectangle", SILENT: "tag"}


def _write(folder: Path, tasks: Sequence[Task]) -> list[str]:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    # CVAT itself reads the images alone; other readers of the format take the labels from here.
    about_task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for key, value in (("name", folder.name), ("size", str(len(tasks))), ("mode", "annotation")):
        ElementTree.SubElement(about_task, key).text = value
    listed = ElementTree.SubElement(about_task, "labels")
    for name, kind in _TYPES.items():
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = kind
        ElementTree.SubElement(label, "attributes")
    for number, task in enumerate(tasks):
        size = {"width": str(task.width), "height": str(task.height)}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": f"{task.file}.jpg"} | size)
        for box in task.boxes.tolist():
            corners = {name: f"{value:.2f}" for name, value in zip(_CORNERS, box, strict=True)}
            about = {"label": SOUND, "source": "auto", "occluded": "0"}
            ElementTree.SubElement(image, "box", about | corners | {"z_order": "0"})
    ElementTree.indent(root)
    write_text(folder / _FILE, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")
    write_json(folder / _LABELS, [{"name": name, "type": kind, "attributes": []} for name, kind in _TYPES.items()])
    return [
        f"Create a task; in its constructor choose Raw and paste {_LABELS}; select the pictures of `{FRAMES}`.",
        f"To begin with the model's boxes, upload {_FILE} as 'CVAT 1.1'.",
        f"Draw a box '{SOUND}' around every source that sounds, or set the tag '{SILENT}'.",
        "Export the annotations as 'CVAT for images 1.1'; a frame with neither counts as not answered.",
    ]


def _read(path: Path) -> list[Answer]:
    return [_answer(path, image) for image in read_xml(path).iter("image")]


def _answer(path: Path, image: ElementTree.Element) -> Answer:
    name = image.get("name", "")
    try:
        size = int(image.attrib["width"]), int(image.attrib["height"])
        boxes = [tuple(float(box.attrib[corner]) for corner in _CORNERS) for box in image.iter("box")]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: image '{name}': {error} is missing or no number") from None
    problem = ""
    for shape in image:
        if shape.tag not in ("box", "tag"):
            problem = f"a {shape.tag} is no box"
        elif float(shape.get("rotation", "0") or 0):
            problem = f"a box is rotated by {shape.get('rotation')} degrees"
    silent = any(tag.get("label") == SILENT for tag in image.iter("tag"))
    return Answer(name, "", [(a, b, c, d) for a, b, c, d in boxes], silent, size, problem)


def _recognizes(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and read_xml(path).tag == "annotations"


TOOL = Tool(_write, _read, _recognizes)
