"""Semi-supervised audio-visual source localization.

model = avsl.load_model("models:/avsl-synthetic-ratio-0.1@champion")
localizations = model.predict(frames, waveforms)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# torch takes seconds to import: the functions below import what they need.
if TYPE_CHECKING:
    from avsl.inference.predictor import Predictor

__version__ = "0.1.0"


def load_model(model: str | Path, device: str = "cpu") -> Predictor:
    """Load a model whose ``predict(frames, waveforms)`` localizes sounds in frames.

    Args:
        model: the folder of an exported model, or a registered model's URI: ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION``.
        device: a torch device.

    Raises:
        ConfigError: the folder holds no exported model.
        TrackingError: MLflow has no such model.
    """
    if not str(model).startswith("models:"):
        from avsl.inference.predictor import Predictor

        return Predictor.load(Path(model), device)
    from avsl.registry.load import load_predictor

    return load_predictor(uri=str(model), device=device)[0]


def list_methods() -> dict[str, list[str]]:
    """Names of all ``frameworks``, ``objectives`` and ``datasets`` that are registered."""
    from avsl.data.datasets import DATASETS
    from avsl.frameworks import FRAMEWORKS
    from avsl.objectives import OBJECTIVES

    return {"frameworks": sorted(FRAMEWORKS), "objectives": sorted(OBJECTIVES), "datasets": sorted(DATASETS)}
