"""Pictures and masks, decoded upright as viewers show them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from avsl.data.media.checks import PICTURE_FORMATS, PICTURE_SUFFIXES, check_file, check_pixels
from avsl.errors import DataError

_ORIENTATION = 0x0112  # the EXIF tag
_TO_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as a viewer shows it.

    Args:
        path: a file of one of the ``PICTURE_FORMATS``.

    Returns:
        (H, W, 3) RGB, upright; with transparent pixels in white.

    Raises:
        DataError: the file is missing, empty, truncated, too large or not a picture.
    """
    return to_rgb(_read(path))


def decode_picture(
    content: BytesIO, formats: tuple[str, ...], check_size: Callable[[int, int], None]
) -> NDArray[np.uint8]:
    """Read a picture as :func:`read_picture` does, from bytes.

    Args:
        content: bytes of the file.
        formats: Pillow's names of the allowed formats.
        check_size: called with width and height before decoding; raises to refuse the picture.

    Returns:
        (H, W, 3) RGB, upright.

    Raises:
        OSError: the bytes are not such a picture, or are damaged.
    """
    return to_rgb(_decode(content, formats, check_size))


def to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert a picture to RGB: 16 bits become 8, and transparent pixels become white.

    Args:
        picture: a picture of any mode.

    Returns:
        (H, W, 3).
    """
    if picture.mode.startswith("I"):
        # Pillow would clip 16-bit gray, which it may store in 32 bits, at 255.
        gray = np.clip(np.asarray(picture), 0, 65535) // 257
        picture = Image.fromarray(gray.astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def resize_frame(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square, bilinear with antialiasing; boxes in fractions stay valid.

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
    """Read a mask: the nonzero pixels of a picture or NumPy array.

    Transparent pixels of a picture are outside the mask; if all opaque pixels are black, they are the mask.

    Args:
        path: jpg, png, or npy with two dimensions.
        size: side of the result in pixels; resized to the nearest pixel.

    Returns:
        (size, size), upright.

    Raises:
        DataError: the file is missing, empty, truncated, a pickle or not a mask, or the array holds NaN or infinity.
    """
    if path.suffix.lower() == ".npy":
        mask = _array_mask(path)
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        mask = _picture_mask(_read(path))
    else:
        check_file(path)
        raise DataError(f"{path}: a mask is a picture or a .npy array, never a pickle: convert it first")
    resized = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def _array_mask(path: Path) -> NDArray[np.bool_]:
    check_file(path)
    try:
        # Memory-mapped, so that a wrong size in the header does not allocate memory.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # NumPy's parser of headers can raise any error for a damaged file
        raise DataError(f"{path}: cannot read the array: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: the array is {array.dtype} of shape {array.shape}, not numbers (height, width)")
    check_pixels(array.shape[1], array.shape[0], path)
    if not np.isfinite(array).all():
        raise DataError(f"{path}: the array holds NaN or infinity")
    return np.asarray(array != 0)


def _picture_mask(picture: Image.Image) -> NDArray[np.bool_]:
    if picture.mode.startswith("I"):
        return np.asarray(np.asarray(picture) != 0)
    opaque = np.asarray(picture.convert("RGBA"))[..., 3] > 0
    colored = np.asarray(picture.convert("RGB")).any(axis=2) & opaque
    mask: NDArray[np.bool_] = opaque if not colored.any() and not opaque.all() else colored
    return mask


def _read(path: Path) -> Image.Image:
    """Decode a picture and turn it upright."""
    check_file(path)
    try:
        return _decode(path, PICTURE_FORMATS, lambda width, height: check_pixels(width, height, path))
    except OSError as error:
        raise DataError(f"{path}: cannot read the picture: {error}") from error


def _decode(source: Path | BytesIO, formats: tuple[str, ...], check_size: Callable[[int, int], None]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # about a limit above MAX_PIXELS
        try:
            picture = Image.open(source, formats=formats)
        except UnidentifiedImageError:
            raise
        except Exception as error:
            raise OSError(str(error)) from error
    with picture:
        check_size(picture.width, picture.height)
        try:
            picture.load()
        except Exception as error:  # Pillow's decoders can raise any error for a damaged file
            raise OSError(str(error)) from error
        turn = _TO_UPRIGHT.get(_orientation(picture))
        return picture.copy() if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # invalid EXIF data do not rotate the picture, as in viewers
        return 1
