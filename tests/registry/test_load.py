"""Models found by folder, label ratio, alias and version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts
from tests.fixtures.store import MakeCandidate

from avsl.config.compose import compose
from avsl.inference.predictor import Predictor
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.registry.load import exported_model, load_predictor
from avsl.registry.packaging import model_code
from avsl.registry.promotion import promote
from avsl.schema import ConfigError
from avsl.tracking.store import TrackingConfig, TrackingError, open_store

RATE = 16000


def test_models_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """A folder without a model, a file, an impossible ratio and a foreign URI are named."""
    text = tmp_path / "best.pth"
    text.write_text("epoch,loss")
    for checkpoint in (tmp_path, text, tmp_path / "none"):
        with pytest.raises(ConfigError, match=facts(checkpoint)):
            load_predictor(checkpoint=checkpoint, data="synthetic", ratio=0.1)
    for name in (str(text), str(tmp_path / "none"), "avsl-synthetic-ratio-0.1"):
        with (
            pytest.raises(ConfigError, match=facts(f"'{name}' models:/NAME@ALIAS models:/NAME/VERSION")),
            exported_model(name, compose()),
        ):
            pass
    with pytest.raises(ConfigError, match=facts("1.5")):
        load_predictor(data="synthetic", ratio=1.5)
    with pytest.raises(TrackingError, match=facts("models:/NAME@ALIAS models:/NAME/VERSION")):
        load_predictor(uri="runs:/abc/model", data="synthetic", ratio=0.1)


@pytest.mark.slow
def test_registered_models_are_found_by_ratio_alias_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_candidate: MakeCandidate
) -> None:
    """The champion of a ratio is found each way and predicts as its files do."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    store = open_store(TrackingConfig(artifact_root=str(tmp_path / "artifacts"), system_metrics=False), tmp_path)
    folder = tmp_path / "exported" / "model"
    member = LocalizerConfig(dim=8)
    description = ExportedModel(members=[member], image_size=48, sample_rate=RATE, duration_s=0.75, threshold=0.25)
    save_exported(folder, LocalizerEnsemble([Localizer(member)]), description)
    promote(store, [make_candidate(store, folder)], "synthetic", 0.03, "s1", "ciou50", model_code())

    name = "models:/avsl-synthetic-ratio-0.03"
    frames, sounds = [np.full((30, 40, 3), 90, np.uint8)], [np.full(9000, 0.1, np.float32)]
    expected = Predictor.load(folder).predict(frames, sounds)[0].map
    for uri in (None, f"{name}@champion", f"{name}/1"):
        found, source = load_predictor(uri=uri, data="synthetic", ratio=0.03)
        assert source == f"{name}/1"
        assert (found.duration_s, found.threshold) == (0.75, 0.25)
        np.testing.assert_array_equal(found.predict(frames, sounds)[0].map, expected)
    for uri, message in ((f"{name}/7", "version=7"), (f"{name}@second", "second"), (None, "ratio-0.5")):
        with pytest.raises(TrackingError, match=facts(message)):
            load_predictor(uri=uri, data="synthetic", ratio=0.5)
