"""Confidence maps over frames, galleries and contact sheets."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from avsl.files import whole_file

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
Color = tuple[int, int, int]

TRUTH_COLOR: Final[Color] = (255, 255, 255)
BOX_COLOR: Final[Color] = (0, 229, 255)
_SHADOW: Final[Color] = (0, 0, 0)
_PAPER: Final[Color] = (250, 250, 250)
_INK: Final[Color] = (25, 25, 25)
_FAINT: Final[Color] = (130, 130, 130)
_OPACITY: Final = 0.75
_GAP: Final = 6
_FONT_SIZE: Final = 13


@dataclass(frozen=True)
class GalleryRow:
    """One sample of a `gallery`.

    Attributes:
        frame: (H, W, 3) uint8.
        truth: (k, 4) boxes x0, y0, x1, y1 in fractions of the frame; k = 0 if nothing in view sounds.
        maps: (h, w) confidences in [0, 1] by column name.
        log_mel: (bands, steps), the lowest band first; None without one.
        waveform: (T,) in [-1, 1]; None without one.
        caption: text above the row.
    """

    frame: Pixels
    truth: Floats
    maps: Mapping[str, Floats] = field(default_factory=dict)
    log_mel: Floats | None = None
    waveform: Floats | None = None
    caption: str = ""


def overlay(frame: Pixels, confidence: Floats, boxes: Floats | None = None, truth: Floats | None = None) -> Pixels:
    """Draw a confidence map over a frame.

    The colors are absolute, not normalized per image: from dark violet at 0 through orange to yellow at 1, with an
    opacity that grows with the confidence, so that a map of zeros leaves the frame unchanged.

    Args:
        frame: (H, W, 3) uint8.
        confidence: (h, w) in [0, 1].
        boxes: (k, 4) predicted boxes x0, y0, x1, y1 in fractions of the frame, outlined in cyan.
        truth: (k, 4) annotated boxes, outlined in white.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the frame is not an RGB image, or the confidence not a map in [0, 1].
    """
    _check_frame(frame)
    if confidence.ndim != 2 or not bool(np.all((confidence >= 0) & (confidence <= 1))):
        raise ValueError(f"a confidence map must be (h, w) with values in [0, 1], got shape {confidence.shape}")
    height, width = frame.shape[:2]
    small = Image.fromarray(confidence.astype(np.float32))
    level = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    # Computed in bytes for speed, because every frame of a video is drawn here.
    heat = Image.fromarray((level * 255).round().astype(np.uint8))
    share = heat.point([round(_OPACITY * value) for value in range(256)])
    heat.putpalette(_color_table("inferno").tobytes())
    image = Image.composite(heat.convert("RGB"), Image.fromarray(frame), share)
    if truth is not None:
        _outline(image, truth, TRUTH_COLOR)
    if boxes is not None:
        _outline(image, boxes, BOX_COLOR)
    return np.asarray(image)


def captioned(frame: Pixels, text: str) -> Pixels:
    """Write a line into the lower left corner of a frame, light on dark; its height scales with the frame's.

    Args:
        frame: (H, W, 3) uint8.
        text: shortened to the frame's width.

    Returns:
        (H, W, 3) uint8.
    """
    _check_frame(frame)
    image = Image.fromarray(frame)
    size = max(_FONT_SIZE, image.height // 24)
    line, gap = _fitted(text, image.width - size, size), size // 2
    draw = ImageDraw.Draw(image)
    corner = (gap, image.height - gap)
    x0, y0, x1, y1 = draw.textbbox(corner, line, font=_font(size), anchor="ls")
    draw.rectangle((x0 - gap // 2, y0 - gap // 2, x1 + gap // 2, y1 + gap // 2), fill=_SHADOW)
    draw.text(corner, line, fill=_PAPER, font=_font(size), anchor="ls")
    return np.asarray(image)


def gallery(rows: Sequence[GalleryRow], cell: int = 176) -> Image.Image:
    """Draw samples as rows with the columns image · truth · each map · sound.

    The sound is the log-mel spectrogram, low at the bottom, with the waveform under it; either may be missing.

    Args:
        rows: samples; all have maps of the same names in the same order.
        cell: height of a frame in pixels; its width follows the frame's shape.

    Raises:
        ValueError: there is no row, or the rows' maps differ in name.
    """
    if not rows:
        raise ValueError("a gallery needs at least one row")
    names = list(rows[0].maps)
    for row in rows:
        _check_frame(row.frame)
        if list(row.maps) != names:
            raise ValueError(f"gallery rows must have the same maps, got {list(row.maps)} beside {names}")
    widths = [round(cell * row.frame.shape[1] / row.frame.shape[0]) for row in rows]
    column = max(widths)
    with_sound = any(row.log_mel is not None or row.waveform is not None for row in rows)
    heads = ["image", "truth", *names, *(["sound"] if with_sound else [])]
    line = _FONT_SIZE + 7
    step = line + cell + _GAP
    sheet = Image.new("RGB", (_GAP + (column + _GAP) * len(heads), line + step * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, head in enumerate(heads):
        text = _fitted(head, column)
        draw.text((_GAP + place * (column + _GAP), 3), text, fill=_INK, font=_font())
    for index, (row, width) in enumerate(zip(rows, widths, strict=True)):
        top = line + index * step
        draw.text((_GAP, top + 2), _fitted(row.caption, sheet.width - 2 * _GAP), fill=_FAINT, font=_font())
        frame = np.asarray(Image.fromarray(row.frame).resize((width, cell), Image.Resampling.BICUBIC))
        pictures = [frame, _truth_picture(frame, row.truth)]
        pictures += [overlay(frame, confidence, truth=row.truth) for confidence in row.maps.values()]
        if with_sound:
            pictures.append(_sound_picture(row, column, cell))
        for place, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (_GAP + place * (column + _GAP), top + line))
    return sheet


def contact_sheet(
    images: Sequence[Pixels],
    captions: Sequence[str],
    columns: int,
    width: int = 240,
    *,
    heading: str = "",
    threshold: float | None = None,
) -> Image.Image:
    """Arrange pictures in rows with captions below them.

    Args:
        images: (H, W, 3) uint8 each; they may differ in size and are fitted into equal cells.
        captions: one for each image; shortened to the cell's width.
        columns: number of pictures per row.
        width: width of a cell in pixels.
        heading: text above the pictures, wrapped to their width.
        threshold: in [0, 1], marked in a legend of the colors above the pictures.

    Raises:
        ValueError: there is no image, captions and images differ in number, or columns is below 1.
    """
    if not images or len(images) != len(captions) or columns < 1:
        raise ValueError(
            f"a contact sheet needs images, a caption for each and a column, got {len(images)} images,"
            f" {len(captions)} captions and {columns} columns"
        )
    for image in images:
        _check_frame(image)
    columns = min(columns, len(images))
    height = round(width * max(image.shape[0] / image.shape[1] for image in images))
    line = _FONT_SIZE + 7
    rows = -(-len(images) // columns)
    full = _GAP + (width + _GAP) * columns
    words = _wrapped(heading, full - 2 * _GAP)
    first = _GAP + line * (len(words) + (threshold is not None))
    sheet = Image.new("RGB", (full, first + (height + line) * rows), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(words):
        draw.text((_GAP, _GAP + index * line), text, fill=_INK, font=_font())
    if threshold is not None:
        _draw_legend(sheet, (_GAP, first - line), threshold)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = _GAP + index % columns * (width + _GAP)
        top = first + index // columns * (height + line)
        fitted = round(width * image.shape[0] / image.shape[1])
        picture = Image.fromarray(image).resize((width, fitted), Image.Resampling.BICUBIC)
        sheet.paste(picture, (left, top + (height - fitted) // 2))
        draw.text((left, top + height + 2), _fitted(caption, width), fill=_INK, font=_font())
    return sheet


def save_png(image: Image.Image | Pixels, path: Path) -> None:
    """Write a PNG atomically; a missing folder is created."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with whole_file(path) as part:
        picture.save(part, format="PNG")


def _check_frame(frame: Pixels) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")


@lru_cache(maxsize=4)
def _color_table(name: str) -> Pixels:
    import matplotlib  # slow to import and seldom needed

    table: Pixels = (np.asarray(matplotlib.colormaps[name](np.arange(256)))[:, :3] * 255).round().astype(np.uint8)
    return table


@lru_cache(maxsize=4)
def _font(size: int = _FONT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int, size: int = _FONT_SIZE) -> str:
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap text to about ``width`` pixels; longer words, such as paths, are broken."""
    if not text:
        return []
    per_character = _font().getlength(text) / len(text)
    return [_fitted(line, width) for line in textwrap.wrap(text, max(1, int(0.9 * width / per_character)))]


def _draw_legend(sheet: Image.Image, corner: tuple[int, int], threshold: float) -> None:
    """Draw a legend of the colors from 0 to 1 with a labeled mark at the threshold."""
    draw = ImageDraw.Draw(sheet)
    (left, top), length, height = corner, 120, _FONT_SIZE
    draw.text((left, top), "0", fill=_INK, font=_font())
    start = left + 12
    bar = np.repeat(_color_table("inferno")[np.linspace(0, 255, length).round().astype(int)][None], height, axis=0)
    sheet.paste(Image.fromarray(bar), (start, top + 1))
    mark = start + round(threshold * (length - 1))
    draw.rectangle((mark - 1, top - 1, mark + 1, top + height + 2), fill=BOX_COLOR, outline=_SHADOW)
    text = f"1   confidence, boxes from {threshold:.2f}"
    draw.text((start + length + 6, top), _fitted(text, sheet.width - start - length - 6), fill=_INK, font=_font())


def _outline(image: Image.Image, boxes: Floats, color: Color) -> None:
    """Outline boxes inside their edges, with a dark inner line for contrast."""
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(image.size) / 120))
    for box in boxes.reshape(-1, 4):
        x0, x1 = np.clip(np.round(box[[0, 2]] * image.width), 0, image.width)
        y0, y1 = np.clip(np.round(box[[1, 3]] * image.height), 0, image.height)
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=line)
        if min(x1 - x0, y1 - y0) > 4 * line:
            draw.rectangle((x0 + line, y0 + line, x1 - line, y1 - line), outline=_SHADOW, width=1)


def _truth_picture(frame: Pixels, truth: Floats) -> Pixels:
    """The frame with its annotated boxes, dimmed outside them."""
    height, width = frame.shape[:2]
    inside = np.zeros((height, width, 1), dtype=bool)
    for box in truth.reshape(-1, 4):
        x0, y0, x1, y1 = np.round(box.clip(0, 1) * [width, height, width, height]).astype(int)
        inside[y0:y1, x0:x1] = True
    image = Image.fromarray(np.where(inside, frame, frame // 3))
    _outline(image, truth, TRUTH_COLOR)
    return np.asarray(image)


def _sound_picture(row: GalleryRow, width: int, height: int) -> Pixels:
    canvas = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    strip = 0 if row.waveform is None else height if row.log_mel is None else height // 4
    if row.log_mel is not None:
        low, high = float(row.log_mel.min()), float(row.log_mel.max())
        level = (row.log_mel[::-1] - low) / max(high - low, 1e-12)
        picture = Image.fromarray(_color_table("magma")[(level * 255).round().astype(np.uint8)])
        canvas[: height - strip] = np.asarray(picture.resize((width, height - strip), Image.Resampling.BILINEAR))
    if row.waveform is not None:
        # Each column shows the minimum and the maximum of its time span.
        edges = np.linspace(0, len(row.waveform), width + 1).astype(int)
        parts = [row.waveform[a : max(b, a + 1)] for a, b in pairwise(edges)]
        middle, half = height - strip / 2, strip / 2 - 1
        for x, part in enumerate(parts):
            top = round(middle - half * min(float(part.max()), 1.0))
            bottom = round(middle - half * max(float(part.min()), -1.0))
            canvas[max(top, height - strip) : bottom + 1, x] = _INK
    return canvas
