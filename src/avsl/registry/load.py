"""Loads the predictor that a person names: a folder, a registered model or a champion."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from avsl.data.datasets import DATASETS, on_disk
from avsl.inference.predictor import Predictor
from avsl.registry.rules import model_name
from avsl.registry.versions import CHAMPION, model_folder, parse_address
from avsl.schema import ConfigError
from avsl.tracking.store import open_store

if TYPE_CHECKING:
    from avsl.config.models import Config

log = logging.getLogger(__name__)


def load_predictor(
    *,
    checkpoint: Path | None = None,
    uri: str | None = None,
    data: str = "synthetic",
    ratio: float = 0.03,
    device: str = "cpu",
) -> tuple[Predictor, str]:
    """Load the model that a person named; a warning says so where it was trained on drawn pictures.

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
        if not checkpoint.is_dir():
            raise ConfigError(f"{checkpoint} is not the folder of an exported model")
        return _checked(Predictor.load(checkpoint, device), str(checkpoint))
    if uri is None:
        if not 0 < ratio <= 1:
            raise ConfigError(f"label ratio {ratio} is not in (0, 1]")
        uri = f"models:/{model_name(data, ratio)}@{CHAMPION}"
    with _registered(uri) as (folder, found):
        return _checked(Predictor.load(folder, device), found)


@contextmanager
def exported_model(model: str, config: Config | None = None) -> Iterator[tuple[Path, str]]:
    """A model's exported form and where it is from, for as long as the context lasts.

    Args:
        model: its folder, or ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        config: says where the registry is; by default the project's.

    Raises:
        ConfigError: it is neither a folder nor the address of a registered model.
        TrackingError: there is no such registered model.
    """
    if not model.startswith("models:"):
        if not Path(model).is_dir():
            raise ConfigError(
                f"model '{model}' is neither the folder of an exported model nor models:/NAME@ALIAS or "
                "models:/NAME/VERSION"
            )
        yield Path(model), model
        return
    with _registered(model, config) as found:
        yield found


def _registered(uri: str, config: Config | None = None) -> AbstractContextManager[tuple[Path, str]]:
    # Before a store is looked for: where there is none, a wrong address would be answered by how to make one.
    parse_address(uri)
    # The configuration (Hydra, every method) is slow to import, and an exported folder needs none.
    from avsl.config.compose import compose

    config = config or compose()
    return model_folder(open_store(config.tracking, config.root, writes=False), uri)


def _checked(predictor: Predictor, source: str) -> tuple[Predictor, str]:
    name = predictor.trained_on
    if name in DATASETS and name not in on_disk():
        log.warning(
            "%s was trained on '%s', drawn shapes and synthetic sounds: in a real video its boxes mean little; "
            "choose a model of real recordings by --data, --model or --checkpoint",
            source,
            name,
        )
    return predictor, source
