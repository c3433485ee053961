"""Checks of media: refuses files and frames that cannot or must not be decoded."""

from __future__ import annotations

from pathlib import Path

from avsl.errors import DataError, check_name

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Allowed formats of files with these suffixes. Pillow's readers of some other formats run programs.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Larger pictures and frames are refused before decoding; one of 8192 x 8192 takes about 0.8 GB.
MAX_PIXELS = 2**26
# Peak of a sound, relative to full scale, below which it is silent; muted tracks of lossy codecs are far below it.
SILENCE_DB = -60.0


def check_file(path: Path) -> None:
    """Refuse a missing or empty file, or a name that is not text.

    Raises:
        DataError: the file is refused.
    """
    check_name(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def check_pixels(width: int, height: int, path: Path) -> None:
    """Refuse a frame of more than ``MAX_PIXELS`` before it is decoded.

    Raises:
        DataError: the frame has more pixels.
    """
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS}")
