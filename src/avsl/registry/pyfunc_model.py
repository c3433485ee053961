"""The registered model's code: MLflow runs this file when it loads the model ("models from code"), no pickle.

Input: a table or a list of records with the columns ``frame`` (base64 of a PNG or JPEG picture, or a nested
(H, W, 3) array of 0..255) and ``audio`` (base64 of a wav, flac or ogg sound, or a list of mono samples in [-1, 1] at
the model's sample rate). Output: for each row ``{"map": P as (h, w) nested floats to four decimals, "boxes": [[x0,
y0, x1, y1, confidence], ...], "threshold": float}``.

The parameter ``map_size`` says how large maps are answered: ``grid``, the default, as the network has them; ``frame``,
as large as each frame, the grid's bilinear interpolation. A grid has hundreds of numbers where a frame's map has tens
of thousands, which take a server longer to write than the network takes to find them. A parameter that
the signature does not name, a mistyped one, never gets here: MLflow drops it and warns in its log.

Limits of a request: ``MAX_ROWS`` rows, ``MAX_PIXELS`` in all its frames together, ``MAX_SECONDS`` of sound in a row at
``MIN_RATE`` to ``MAX_RATE``, ``MAX_SAMPLES`` in all encoded sounds together. What is over them, or cannot be read, is
refused in one sentence, a picture before it is decoded, a sound where its decoding gets there; `mlflow models serve`
answers 400. How long a request may take is the server's to limit (``--timeout``, 60 s by default).
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]  # MLflow re-exports it implicitly
from numpy.typing import NDArray

from avsl.data.media.audio import decode_sound
from avsl.data.media.image import decode_picture
from avsl.errors import DataError
from avsl.inference.predictor import InputError, Predictor

MAX_ROWS = 64
# One frame of 2048 x 2048 px, two of full HD, or 64 of 256 x 256; an answer of some 35 MB, as it holds a map of each.
MAX_PIXELS = 2**22
MAX_SECONDS = 60.0
# Of all channels of the recordings: 64 stereo ones of 10 s at 48 kHz; a second's work to decode.
MAX_SAMPLES = 2**26
MIN_RATE, MAX_RATE = 4_000, 192_000  # Hz
MAP_SIZES = ("grid", "frame")  # the first where a request says none


class LocalizerModel(PythonModel):
    """Serves the exported model of the artifact ``model``."""

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow."""
        self.predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Localize every row; the module's docstring tells the format.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE where a column is missing, a row or parameter cannot be used or the
                request is over a limit; names it.
        """
        del context
        try:
            return self._localize(model_input, (params or {}).get("map_size", MAP_SIZES[0]))
        except InputError as error:
            # The scoring server hides the message of any other exception.
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _localize(self, table: pd.DataFrame, map_size: str) -> list[dict[str, Any]]:
        if map_size not in MAP_SIZES:
            raise InputError(f"parameter 'map_size' is '{map_size}', expected one of {', '.join(MAP_SIZES)}")
        missing = {"frame", "audio"} - set(table.columns)
        if missing:
            raise InputError(f"column '{min(missing)}' is missing: expected 'frame' and 'audio'")
        if len(table) > MAX_ROWS:
            raise InputError(f"the request has {len(table)} rows, more than {MAX_ROWS}")
        frames: list[NDArray[np.uint8]] = []
        left = MAX_PIXELS
        for row, value in enumerate(table["frame"]):
            frames.append(_frame(value, row, left))
            left -= frames[-1].shape[0] * frames[-1].shape[1]
        rate = self.predictor.sample_rate
        sounds: list[NDArray[np.floating[Any]]] = []
        left = MAX_SAMPLES
        for row, value in enumerate(table["audio"]):
            sound, decoded = _audio(value, row, rate, left)
            sounds.append(sound)
            left -= decoded
        return [
            {
                # Four decimals say all that a map does, in a third of the characters.
                "map": np.round((found.grid if map_size == "grid" else found.map).astype(np.float64), 4).tolist(),
                "boxes": [list(box) for box in found.boxes],
                "threshold": self.predictor.threshold,
            }
            for found in self.predictor.predict(frames, sounds)
        ]


def _bytes(value: str, row: int, column: str) -> io.BytesIO:
    try:
        return io.BytesIO(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise InputError(f"row {row}: '{column}' is not base64") from None


def _numbers(value: Any, row: int, column: str) -> NDArray[np.float64]:
    try:
        # A DataFrame holds a nested array as an array of arrays, which only a list unfolds.
        return np.asarray(value.tolist() if isinstance(value, np.ndarray) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"row {row}: '{column}' is neither base64 text nor an array of numbers") from None


def _frame(value: Any, row: int, pixels_left: int) -> NDArray[np.uint8]:
    if isinstance(value, str):
        try:
            return decode_picture(
                _bytes(value, row, "frame"),
                ("PNG", "JPEG"),
                lambda width, height: _check_pixels(height, width, row, pixels_left),
            )
        except OSError:
            raise InputError(f"row {row}: 'frame' is not a readable PNG or JPEG picture") from None
    numbers = value if isinstance(value, np.ndarray) and value.dtype == np.uint8 else _numbers(value, row, "frame")
    if numbers.ndim != 3 or numbers.shape[2] != 3:
        raise InputError(f"row {row}: 'frame' has the shape {numbers.shape}, expected (height, width, 3)")
    _check_pixels(numbers.shape[0], numbers.shape[1], row, pixels_left)
    if not (np.isfinite(numbers).all() and ((numbers >= 0) & (numbers <= 255) & (numbers % 1 == 0)).all()):
        raise InputError(f"row {row}: 'frame' holds values that are not whole numbers in 0..255")
    return numbers.astype(np.uint8)


def _check_pixels(height: int, width: int, row: int, left: int) -> None:
    if height * width > left:
        raise InputError(
            f"row {row}: 'frame' of {width} x {height} pixels brings the request over {MAX_PIXELS} pixels in all"
        )


def _audio(value: Any, row: int, sample_rate: int, left: int) -> tuple[NDArray[np.floating[Any]], int]:
    """The mono sound, and how many of the samples that are ``left`` to the request were decoded for it."""
    if not isinstance(value, str):
        mono = _numbers(value, row, "audio")
        _check_length(mono.size, sample_rate, row)
        return mono, 0

    def check(length: int, rate: int, decoded: int) -> None:
        # Not what its first bytes say, which may be wrong or missing.
        if not MIN_RATE <= rate <= MAX_RATE:
            raise InputError(f"row {row}: 'audio' of {rate} Hz is not between {MIN_RATE} and {MAX_RATE} Hz")
        _check_length(length, rate, row)
        if decoded > left:
            raise InputError(f"row {row}: 'audio' brings the request over {MAX_SAMPLES} samples in all")

    try:
        return decode_sound(_bytes(value, row, "audio").getvalue(), sample_rate, check)
    except DataError as error:
        raise InputError(f"row {row}: 'audio' is not a readable wav, flac or ogg sound: {error}") from None


def _check_length(samples: int, rate: int, row: int) -> None:
    if samples > MAX_SECONDS * rate:
        raise InputError(f"row {row}: 'audio' is longer than {MAX_SECONDS:g} s")


mlflow.models.set_model(LocalizerModel())
