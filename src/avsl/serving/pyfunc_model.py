"""The registered model's code: MLflow runs this file when it loads the model ("models from code"), no pickle.

Input: a table or a list of records with the columns ``frame`` (base64 of a PNG or JPEG picture, or a nested
(H, W, 3) array of 0..255) and ``audio`` (base64 of a wav, flac or ogg sound, or a list of mono samples in [-1, 1] at
the model's sample rate). Output: for each row ``{"map": P as (H, W) nested floats, "boxes": [[x0, y0, x1, y1,
confidence], ...], "threshold": float}``.
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
import soundfile
import torch
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]  # MLflow re-exports it implicitly
from numpy.typing import NDArray
from PIL import Image
from torchaudio.functional import resample

from avsl.serving.predictor import InputError, Predictor


class LocalizerModel(PythonModel):
    """Serves the exported model of the artifact ``model``."""

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow."""
        self.predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Localise every row; the module's docstring tells the format.

        Raises:
            InputError: a column is missing or a row cannot be used; names both.
        """
        del context, params
        missing = {"frame", "audio"} - set(model_input.columns)
        if missing:
            raise InputError(f"column '{min(missing)}' is missing: expected 'frame' and 'audio'")
        frames = [_frame(value, row) for row, value in enumerate(model_input["frame"])]
        rate = self.predictor.sample_rate
        sounds = [_audio(value, row, rate) for row, value in enumerate(model_input["audio"])]
        return [
            {
                "map": found.map.tolist(),
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


def _frame(value: Any, row: int) -> NDArray[np.uint8]:
    if isinstance(value, str):
        try:
            with Image.open(_bytes(value, row, "frame")) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError):
            raise InputError(f"row {row}: 'frame' is not a readable PNG or JPEG picture") from None
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return value
    numbers = _numbers(value, row, "frame")
    if not (np.isfinite(numbers).all() and ((numbers >= 0) & (numbers <= 255) & (numbers % 1 == 0)).all()):
        raise InputError(f"row {row}: 'frame' holds values that are not whole numbers in 0..255")
    return numbers.astype(np.uint8)


def _audio(value: Any, row: int, sample_rate: int) -> NDArray[np.floating[Any]]:
    if not isinstance(value, str):
        return _numbers(value, row, "audio")
    try:
        samples, rate = soundfile.read(_bytes(value, row, "audio"), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise InputError(f"row {row}: 'audio' is not a readable wav, flac or ogg sound") from None
    mono: NDArray[np.float32] = samples.mean(axis=1)
    if rate == sample_rate or not len(mono):
        return mono
    resampled: NDArray[np.float32] = resample(torch.from_numpy(mono), rate, sample_rate).numpy()
    return resampled


mlflow.models.set_model(LocalizerModel())
