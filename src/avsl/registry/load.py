"""Loads the predictor that a person names: a folder, a registered model or a champion."""

from __future__ import annotations

from pathlib import Path

from avsl.inference.predictor import Predictor
from avsl.registry.rules import model_name
from avsl.registry.versions import CHAMPION, model_folder
from avsl.schema import ConfigError
from avsl.tracking.store import open_store


def load_predictor(
    *,
    checkpoint: Path | None = None,
    uri: str | None = None,
    data: str = "synthetic",
    ratio: float = 0.03,
    device: str = "cpu",
) -> tuple[Predictor, str]:
    """Load the model that a person named.

    Args:
        checkpoint: an exported model's folder; goes before the others.
        uri: a registered model, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; goes before the ratio.
        data: the data set and
        ratio: label ratio whose champion is taken otherwise.
        device: a torch device.

    Returns:
        The predictor and where it is from.

    Raises:
        ConfigError: the folder holds no exported model, or the ratio is none.
        TrackingError: the URI is none, or MLflow has no such model.
    """
    if checkpoint is not None:
        return Predictor.load(checkpoint, device), str(checkpoint)
    if uri is None:
        if not 0 < ratio <= 1:
            raise ConfigError(f"label ratio {ratio} is not in (0, 1]")
        uri = f"models:/{model_name(data, ratio)}@{CHAMPION}"
    # The configuration (Hydra, every method) is slow to import, and an exported folder needs none.
    from avsl.config.compose import compose

    config = compose()
    with model_folder(open_store(config.tracking, config.root, writes=False), uri) as (folder, found):
        return Predictor.load(folder, device), found
