"""COCO's detection format (https://cocodataset.org/#format-data), which most tools read and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from avsl.errors import DataError
from avsl.files import write_json
from avsl.labels.tools.documents import read_json, read_model
from avsl.labels.tools.task import FRAMES, SILENT, SOUND, Answer, Task, Tool

_FILE = "annotations.json"


class _Image(BaseModel):
    id: int
    file_name: str
    width: int
    height: int


class _Category(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _Document(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def _write(folder: Path, tasks: Sequence[Task]) -> list[str]:
    annotations: list[dict[str, Any]] = []
    for number, task in enumerate(tasks, start=1):
        for x0, y0, x1, y1 in task.boxes.tolist():
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "segmentation": []}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1} | box)
    document = {
        "info": {"description": "frames whose sources of sound are to be annotated"},
        "licenses": [],
        "images": [
            {"id": number, "file_name": task.frame, "width": task.width, "height": task.height}
            for number, task in enumerate(tasks, start=1)
        ],
        "categories": [
            {"id": 1, "name": SOUND, "supercategory": ""},
            {"id": 2, "name": SILENT, "supercategory": ""},
        ],
        "annotations": annotations,
    }
    write_json(folder / _FILE, document)
    return [
        f"Load {_FILE} and the folder `{FRAMES}` into a tool that edits COCO files.",
        f"Draw a box '{SOUND}' around every source that sounds; any box '{SILENT}' says that there is none in view.",
        "Export as COCO; a frame without a box counts as not answered.",
    ]


def _read(path: Path) -> list[Answer]:
    found = read_model(path, _Document, read_json(path), "COCO")
    names = {category.id: category.name for category in found.categories}
    images = {image.id: image for image in found.images}
    boxes: dict[int, list[tuple[float, float, float, float]]] = {}
    silent: set[int] = set()
    for annotation in found.annotations:
        if annotation.image_id not in images or annotation.category_id not in names:
            raise DataError(
                f"{path}: an annotation has no image {annotation.image_id} or no category {annotation.category_id}"
            )
        if names[annotation.category_id] == SILENT:
            silent.add(annotation.image_id)
            continue
        x, y, width, height = annotation.bbox
        boxes.setdefault(annotation.image_id, []).append((x, y, x + width, y + height))
    return [
        Answer(image.file_name, "", boxes.get(key, []), key in silent, (image.width, image.height))
        for key, image in images.items()
    ]


def _recognizes(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    content = read_json(path)
    return isinstance(content, dict) and "images" in content and "annotations" in content


TOOL = Tool(_write, _read, _recognizes)
