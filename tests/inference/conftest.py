"""A predictor around a model whose maps the test can foretell."""

from __future__ import annotations

import pytest
from tests.fixtures.overlays import RATE, BrightAndLoud

from avsl.inference.predictor import Predictor
from avsl.models import ExportedModel, LocalizerConfig


@pytest.fixture
def model() -> BrightAndLoud:
    """A stand-in that marks what is bright while it is loud."""
    return BrightAndLoud()


@pytest.fixture
def predictor(model: BrightAndLoud) -> Predictor:
    """A predictor around the stand-in."""
    description = ExportedModel(
        members=[LocalizerConfig()], image_size=32, sample_rate=RATE, duration_s=0.5, threshold=0.3
    )
    return Predictor(model, description)
