"""Boxes drawn as pixels: the one place where an annotated box becomes a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL_TOLERANCE: Final = 1e-4
"""Share of a pixel that a corner may lie below a pixel's edge: k / size in float32, times size, may fall below k."""


def box_pixels(boxes: NDArray[np.floating[Any]], size: int) -> NDArray[np.int64]:
    """The pixels of boxes: (k, 4) fractions of the frame, clipped to [0, 1] and truncated; the end is exclusive.

    Raises:
        ValueError: a corner is not a number.

    Examples:
        >>> box_pixels(np.array([[-0.1, 0.3, 0.51, 1.0]]), 10)
        array([[ 0,  3,  5, 10]])
    """
    if np.isnan(boxes).any():
        raise ValueError("a box corner is not a number")
    return (boxes.astype(np.float64).clip(0, 1) * size + PIXEL_TOLERANCE).astype(np.int64)


def box_mask(boxes: NDArray[np.floating[Any]], size: int) -> NDArray[np.bool_]:
    """The union of an image's boxes.

    Args:
        boxes: (k, 4) x0, y0, x1, y1 in fractions of the frame.
        size: side of the mask in pixels; see `box_pixels`.

    Returns:
        (size, size); empty where there is no box.

    Raises:
        ValueError: a corner is not a number.

    Examples:
        >>> box_mask(np.array([[0.25, 0.0, 1.0, 0.5]]), 4).astype(int)
        array([[0, 1, 1, 1],
               [0, 1, 1, 1],
               [0, 0, 0, 0],
               [0, 0, 0, 0]])
    """
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in box_pixels(boxes, size).tolist():
        mask[y0:y1, x0:x1] = True
    return mask


def consensus_map(boxes: NDArray[np.floating[Any]], size: int) -> NDArray[np.float32]:
    """Flickr-SoundNet's truth, min(1, Σ boxes / 2): a pixel counts fully where two annotators agree.

    Args:
        boxes: (k, 4) one box of each annotator, as in `box_mask`.
        size: side of the map in pixels.

    Returns:
        (size, size) of 0, 0.5 and 1.

    Raises:
        ValueError: a corner is not a number.

    Examples:
        >>> consensus_map(np.array([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 1.0]]), 4)[0]
        array([0.5, 1. , 0.5, 0. ], dtype=float32)
    """
    votes = np.zeros((size, size), np.float32)
    for x0, y0, x1, y1 in box_pixels(boxes, size).tolist():
        votes[y0:y1, x0:x1] += 1
    return np.minimum(votes / 2, 1)
