"""A contact sheet of a prepared set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from avsl.data.prepared.format import PARTS
from avsl.data.prepared.reader import PreparedData
from avsl.files import whole_file

CONTACT_SHEET = "contact_sheet.png"
_CAPTION = 14
_MIN_TILE = 160


def write_contact_sheet(data: PreparedData, per_part: int = 8) -> Path:
    """Draw the first ``per_part`` rows of each part with their boxes and labels.

    Returns:
        ``contact_sheet.png`` beside the manifest, with one line of tiles per part.
    """
    side = data.manifest.image_size
    zoom = max(1, -(-_MIN_TILE // side))
    tile = side * zoom
    lines = [index[:per_part] for part in PARTS if len(index := data.indices(part))]
    sheet = Image.new("RGB", (per_part * (tile + 4), len(lines) * (tile + _CAPTION + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, index in enumerate(lines):
        for column, (i, frame) in enumerate(zip(index.tolist(), data.frames(np.asarray(index)), strict=True)):
            x, y = column * (tile + 4), row * (tile + _CAPTION + 4)
            draw.text((x, y), f"{data.parts[i]}: {data.labels[i]}", fill="black")
            picture = Image.fromarray(frame).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(picture, (x, y + _CAPTION))
            boxes = data.boxes(i)
            for x0, y0, x1, y1 in () if boxes is None else (boxes * tile).tolist():
                corners = (x + x0, y + _CAPTION + y0, x + x1 - 1, y + _CAPTION + y1 - 1)
                draw.rectangle(corners, outline="red", width=2)
    path = data.root / CONTACT_SHEET
    with whole_file(path) as part:
        sheet.save(part, format="PNG")
    return path
