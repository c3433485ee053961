"""A model scored on another data set than its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fixtures.messages import facts

from avsl.cli import main
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.models.hashing import hash_model
from avsl.paths import Layout
from avsl.schema import ConfigError
from avsl.stages.score import score


@pytest.fixture
def make_model(tiny: LocalizerConfig, tmp_path: Path) -> Callable[..., Path]:
    """Exports an untrained model; settings of the export as keywords."""

    def make(**changes: Any) -> Path:
        torch.manual_seed(0)
        about = {"image_size": 32, "sample_rate": 16000, "duration_s": 0.25, "threshold": 0.51, "trained_on": "vggss"}
        description = ExportedModel(members=[tiny, tiny], **about | changes)
        save_exported(tmp_path / "model", LocalizerEnsemble([Localizer(tiny), Localizer(tiny)]).eval(), description)
        return tmp_path / "model"

    return make


@pytest.mark.slow
def test_the_threshold_stays_the_models_and_validation_decides_nothing(
    make_model: Callable[..., Path],
    layout: Callable[..., Layout],
    draw_boxes: Callable[[PreparedData, Collection[str], NDArray[np.float32]], None],
) -> None:
    """Other boxes on validation change no figure, but those of a threshold that it was asked to choose."""
    here, model = layout(), make_model()
    target = here.scored(hash_model(model))
    before = {path for path in here.base.rglob("*") if path.is_file()}

    def figures(*, choose_threshold: bool = False) -> dict[str, Any]:
        score(str(model), choose_threshold=choose_threshold)
        found: dict[str, Any] = json.loads((target / "metrics.json").read_text())
        return found

    own, chosen = figures(), figures(choose_threshold=True)
    assert own["threshold"] == 0.51 != chosen["threshold"]
    assert (own["validation"]["n"], chosen["validation"]["n"]) == (0, 6)
    assert own["test"]["n"] == 6
    assert {"ciou", "ciou_shuffled", "by_size"} <= own["test"].keys()
    assert {"test_duet", "test_offscreen", "test_swap"} <= own.keys()
    assert (own["model"], own["trained_on"]) == (str(model), "vggss")
    made = {path for path in here.base.rglob("*") if path.is_file()} - before
    assert {path.parent for path in made if "features" not in path.name} == {target}
    data = PreparedData.open(here.prepared)
    ids = [data.sample_ids[row] for row in data.indices("validation").tolist()]
    draw_boxes(data, ids, np.array([[0, 0, 0.1, 0.1]], np.float32))
    assert figures() == own
    assert figures(choose_threshold=True)["threshold"] != chosen["threshold"]


def test_the_maps_are_saved_by_sample(make_model: Callable[..., Path], layout: Callable[..., Layout]) -> None:
    """Of every scored part, in the model's resolution."""
    here, model = layout(), make_model()
    assert main(["evaluate", "--model", str(model), "--maps", "npz"]) == 0
    data = PreparedData.open(here.prepared)
    with np.load(here.scored(hash_model(model)) / "maps.npz") as saved:
        assert set(saved["part"]) == {data.parts[row] for row in range(len(data))} - {"train", "validation"}
        for sample, part, recording in zip(saved["sample_id"], saved["part"], saved["recording"], strict=True):
            (row,) = data.rows_of([str(sample)])
            assert (data.parts[row], data.source_ids[row]) == (part, recording)
        assert saved["confidence"].shape == (len(saved["part"]), 8, 8)
        assert ((saved["confidence"] >= 0) & (saved["confidence"] <= 1)).all()


def test_what_cannot_be_scored_is_refused(
    make_model: Callable[..., Path], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data of another size, an address of nothing, a prior without a threshold, and a choice of it without a model."""
    for key, value in (("image_size", 64), ("sample_rate", 8000), ("duration_s", 1.0)):
        with pytest.raises(DataError, match=facts("prepared", key)):
            score(str(make_model(**{key: value})))
    with pytest.raises(ConfigError, match=facts("'nowhere'")):
        score("nowhere")
    with pytest.raises(ConfigError, match=facts("evaluate.ogl --choose-threshold")):
        score(str(make_model()), ["evaluate.ogl.weights=w"])
    for option in (["--choose-threshold"], ["--maps", "npz"]):
        assert main(["evaluate", *option]) == 2
        assert "--model" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(make_model(image_size=64))]) == 2
