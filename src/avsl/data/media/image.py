"""Decoding of audio, video and pictures; whatever cannot be decoded is one DataError naming the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avsl.data.media.checks import PICTURE_SUFFIXES, check_file, check_pixels
from avsl.data.media.video import read_frame
from avsl.errors import DataError

if TYPE_CHECKING:
    pass


def resize_frame(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square (boxes are fractions, so they stay), bilinear with antialiasing.

    Args:
        frame: (H, W, 3).
        size: side in pixels.

    Returns:
        (size, size, 3).
    """
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, size: int) -> NDArray[np.bool_]:
    """Read a mask: what is not zero (black) in a picture or in a NumPy array.

    Args:
        path: jpg, png, or npy with two dimensions.
        size: side of the result in pixels; resized to the nearest pixel.

    Returns:
        (size, size).

    Raises:
        DataError: the file is missing, empty, truncated, a pickle or no mask.
    """
    check_file(path)
    if path.suffix.lower() == ".npy":
        try:
            # Mapped: room for what the header states is taken only if the file holds it.
            array = np.load(path, allow_pickle=False, mmap_mode="r")
            if array.ndim != 2:
                raise DataError(f"{path}: the array has shape {array.shape}, not (height, width)")
            check_pixels(array.shape[1], array.shape[0], path)
            mask = array != 0
        except DataError:
            raise
        except Exception as error:  # whatever NumPy's parser of headers raises for a damaged file
            raise DataError(f"{path}: cannot read the array: {error}") from error
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        mask = read_frame(path, None).any(axis=2)
    else:
        raise DataError(f"{path}: a mask is a picture or a .npy array, never a pickle: convert it first")
    resized = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0
