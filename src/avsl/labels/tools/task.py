"""Tasks for annotation tools, and the answers that they export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SOUND = "sound"
"""The label of a box around a source that sounds."""
SILENT = "nothing in view sounds"
"""The answer if no source of the sound is in view."""
FRAMES, SOUNDS = "frames", "sounds"


@dataclass(frozen=True)
class Task:
    """A frame to annotate.

    Attributes:
        id: the clip.
        file: name of its frame and its sound in the task folder, without a suffix.
        width: of the frame, pixels.
        height: of the frame, pixels.
        boxes: (k, 4) boxes x0, y0, x1, y1 of a model in pixels, to be corrected.
        model: source of the boxes; empty if there are none.
    """

    id: str
    file: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    model: str = ""

    @property
    def frame(self) -> str:
        """The frame's path in the task folder."""
        return f"{FRAMES}/{self.file}.jpg"

    @property
    def sound(self) -> str:
        """The sound's path in the task folder."""
        return f"{SOUNDS}/{self.file}.wav"


@dataclass(frozen=True)
class Answer:
    """One annotator's answer for one frame.

    Attributes:
        frame: the tool's name of the frame: the clip or the frame's file.
        annotator: name of the annotator; empty if the tool states none.
        boxes: x0, y0, x1, y1 of each box in pixels.
        silent: whether the annotator saw no sounding object.
        size: width and height of the frame in the tool, pixels; None if the tool states none.
        problem: why the answer cannot be used; empty if it can.
    """

    frame: str
    annotator: str
    boxes: Sequence[tuple[float, float, float, float]]
    silent: bool = False
    size: tuple[int, int] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Tool:
    """A format of tasks and answers.

    Attributes:
        write: writes what the tool needs into a task folder that holds frames and sounds; returns what to do with it,
            a line each.
        read: reads the answers of a file that `recognizes` accepts.
        recognizes: whether a file is of this format.
    """

    write: Callable[[Path, Sequence[Task]], list[str]]
    read: Callable[[Path], list[Answer]]
    recognizes: Callable[[Path], bool]
