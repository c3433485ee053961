"""What a registered model carries beside its weights: its code, its interface and its pinned requirements."""

from __future__ import annotations

import base64
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from PIL import Image

import avsl
from avsl.registry.versions import ModelCode

# What `avsl.registry.pyfunc_model` imports, by the name on the package index.
_REQUIRED = (
    "av",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchaudio",
    "torchvision",
)


def model_code() -> ModelCode:
    """The code that serves the exported models of this version of the package."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    package = Path(avsl.__file__).parent
    # Each column takes text or numbers, which no narrower column type of MLflow can say.
    either: Any = AnyType
    inputs = Schema([ColSpec(either(), "frame"), ColSpec(either(), "audio")])
    grid = Array(Array(DataType.double))
    outputs = Schema([ColSpec(grid, "map"), ColSpec(grid, "boxes"), ColSpec(DataType.double, "threshold")])
    parameters = ParamSchema([ParamSpec("map_size", DataType.string, default="grid")])
    return ModelCode(
        script=package / "registry" / "pyfunc_model.py",
        package=package,
        signature=ModelSignature(inputs, outputs, parameters),
        # A local build's suffix ("+cpu") is not on the package index.
        input_example=_example(),
        requirements=tuple(f"{name}=={version(name).split('+')[0]}" for name in _REQUIRED),
    )


def _example() -> pd.DataFrame:
    """A gray frame and a quarter of a second of 440 Hz, in base64."""
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 48), "gray").save(picture, "PNG")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 16000)
    soundfile.write(sound, tone, 16000, format="WAV")
    columns = {"frame": picture, "audio": sound}
    return pd.DataFrame({name: [base64.b64encode(buffer.getvalue()).decode()] for name, buffer in columns.items()})
