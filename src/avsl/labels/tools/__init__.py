"""Annotation tools and formats, by name."""

from __future__ import annotations

from avsl.labels.tools import coco, cvat, label_studio, table
from avsl.labels.tools.task import Tool

TOOLS: dict[str, Tool] = {
    "label-studio": label_studio.TOOL,
    "coco": coco.TOOL,
    "cvat": cvat.TOOL,
    "csv": table.TOOL,
}
