"""Label Studio's JSON (https://labelstud.io/guide/task_format)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from avsl.files import write_json, write_text
from avsl.labels.tools.documents import read_json, read_model
from avsl.labels.tools.task import SILENT, SOUND, Answer, Task, Tool

_TASKS, _INTERFACE = "tasks.json", "interface.xml"
_BOXES, _ANSWER = "boxes", "answer"

_LABELING = f"""\
<View>
  <Audio name="audio" value="$audio"/>
  <Image name="image" value="$image" zoom="true"/>
  <RectangleLabels name="{_BOXES}" toName="image" canRotate="false">
    <Label value="{SOUND}"/>
  </RectangleLabels>
  <Choices name="{_ANSWER}" toName="image" choice="single">
    <Choice value="{SILENT}"/>
  </Choices>
</View>
"""


class _Region(BaseModel):
    type: str
    value: dict[str, Any]
    original_width: int | None = None
    original_height: int | None = None


class _Rectangle(BaseModel):
    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0


class _Annotation(BaseModel):
    result: list[_Region]
    completed_by: int | str | dict[str, Any] = ""
    was_cancelled: bool = False


class _Data(BaseModel):
    id: str
    width: int
    height: int


class _Task(BaseModel):
    data: _Data
    annotations: list[_Annotation] = Field(default_factory=list)


def _write(folder: Path, tasks: Sequence[Task]) -> list[str]:
    write_text(folder / _INTERFACE, _LABELING)
    write_json(folder / _TASKS, [_task(folder, task) for task in tasks])
    root = folder.absolute()
    return [
        "Start Label Studio so that it may read this folder:",
        f"`LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root.parent} "
        "label-studio start`",
        f"Create a project; in Settings, Labeling Interface, Code, paste {_INTERFACE}.",
        f"In Settings, Cloud Storage, add the source storage 'Local files' with the path {root} and do not sync it.",
        f"Import {_TASKS}. Draw a box around every source that sounds, or choose '{SILENT}'.",
        "Export as JSON.",
    ]


def _task(folder: Path, task: Task) -> dict[str, Any]:
    def address(file: str) -> str:
        return f"/data/local-files/?d={quote(f'{folder.name}/{file}')}"

    data = {"id": task.id, "image": address(task.frame), "audio": address(task.sound)}
    made: dict[str, Any] = {"data": data | {"width": task.width, "height": task.height}}
    if len(task.boxes):
        regions = [
            {
                "id": f"box{k}",
                "from_name": _BOXES,
                "to_name": "image",
                "type": "rectanglelabels",
                "original_width": task.width,
                "original_height": task.height,
                "image_rotation": 0,
                "value": {
                    "x": 100 * x0 / task.width,
                    "y": 100 * y0 / task.height,
                    "width": 100 * (x1 - x0) / task.width,
                    "height": 100 * (y1 - y0) / task.height,
                    "rotation": 0,
                    "rectanglelabels": [SOUND],
                },
            }
            for k, (x0, y0, x1, y1) in enumerate(task.boxes.tolist())
        ]
        made["predictions"] = [{"model_version": task.model, "result": regions}]
    return made


def _read(path: Path) -> list[Answer]:
    answers: list[Answer] = []
    for number, content in enumerate(read_json(path)):
        task = read_model(path, _Task, content, f"task {number}")
        done = [annotation for annotation in task.annotations if not annotation.was_cancelled]
        answers += [_answer(path, task.data, annotation) for annotation in done]
        if not done:
            answers.append(Answer(task.data.id, "", [], size=(task.data.width, task.data.height)))
    return answers


def _answer(path: Path, data: _Data, annotation: _Annotation) -> Answer:
    by = annotation.completed_by
    person = (by.get("email") or by.get("id") or "") if isinstance(by, dict) else by
    boxes: list[tuple[float, float, float, float]] = []
    silent, problem, size = False, "", (data.width, data.height)
    for region in annotation.result:
        if region.type == "choices":
            silent = silent or SILENT in region.value.get("choices", [])
        elif region.type in ("rectanglelabels", "rectangle"):
            box = read_model(path, _Rectangle, region.value, f"task '{data.id}'")
            if abs(box.rotation) > 1e-6:
                problem = f"a box is rotated by {box.rotation:g} degrees"
            size = (region.original_width or size[0], region.original_height or size[1])
            x, y = box.x / 100 * size[0], box.y / 100 * size[1]
            boxes.append((x, y, x + box.width / 100 * size[0], y + box.height / 100 * size[1]))
        else:
            problem = f"a region of the type '{region.type}' is no box"
    return Answer(data.id, str(person), boxes, silent, size, problem)


def _recognizes(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    content = read_json(path)
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "data" in content[0]


TOOL = Tool(_write, _read, _recognizes)
