"""What media must be: refuses files and frames that cannot, or must not, be decoded."""

from __future__ import annotations

from pathlib import Path

from avsl.errors import DataError, check_name

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# What may lie under these names, as downloads have it. Of the others that Pillow reads some run programs.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Larger pictures and frames are refused before they are decoded: one of 8192 x 8192 takes some 0.8 GB on the way.
MAX_PIXELS = 2**26
# Peak of a sound, relative to full scale, below which it is silent: muted tracks of lossy codecs lie far below.
SILENCE_DB = -60.0


def check_file(path: Path) -> None:
    """Refuse a file that is missing, empty or has a name that is no text.

    Raises:
        DataError: it is.
    """
    check_name(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def check_pixels(width: int, height: int, path: Path) -> None:
    """Refuse a frame of more than ``MAX_PIXELS`` before it is decoded.

    Raises:
        DataError: it has more.
    """
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS}")
