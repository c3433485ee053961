"""Trainings whose two students hear differently, and SSPL's published experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from avsl.build import make_reader
from avsl.config.compose import compose
from avsl.data.transforms import plain_view
from avsl.models import load_exported
from avsl.objectives.sspl import SSPLConfig
from avsl.paths import Layout
from avsl.stages.prepare import load_data
from avsl.stages.train import train

ROOT = Path(__file__).parents[2]
VGGISH = "model.second.audio={kind: vggish, channels: [4, 4, 4, 4], hidden: 8}"
WAVEFORM = "model.second.audio={kind: waveform, channels: [4, 4, 4]}"
SSPL = ["objective=sspl", "objective.sspl.hidden=16", "objective.sspl.bottleneck=8"]


@pytest.mark.parametrize("asked", [[VGGISH, *SSPL], [WAVEFORM], [WAVEFORM, "trainer.cache_features=false"]])
def test_dmt_trains_students_that_hear_differently(asked: list[str], layout: Callable[..., Layout]) -> None:
    """What is exported predicts from raw sounds what it says with what was cached in training."""
    asked = ["framework=dmt", *asked]
    here = layout(*asked)
    train(asked)
    model, description = load_exported(here.train / "model")
    first, second = description.members
    assert first.audio.kind == "spectrogram"
    assert second.audio.kind in ("vggish", "waveform")
    config = compose(asked)
    data, _ = load_data(here)
    rows = np.arange(5)
    read = make_reader(config, description.members, data, rows)(rows, masks=False)
    with torch.no_grad():
        heard = model(plain_view(read))
    predicted = model.predict(torch.from_numpy(data.frames(rows)), torch.from_numpy(data.waveforms(rows)))
    assert heard.isfinite().all()
    torch.testing.assert_close(predicted, heard, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("experiment", "head", "rate", "coded"),
    [
        ("sspl_vggss", SSPLConfig(), 2e-5, True),
        ("sspl_vggss_without_pcm", SSPLConfig(lr_scale=4.0), 5e-4, False),
    ],
)
def test_sspls_experiments_have_the_published_settings(
    experiment: str, head: SSPLConfig, rate: float, coded: bool
) -> None:
    """params.yaml's own, made for the embedded data set, do not reach them; both trunks start from files."""
    asked = [f"experiment={experiment}", "data.vggss.root=x"]
    config = compose([*asked, "model.image.weights=a", "model.audio.weights=b"], ROOT)
    assert config.objective.settings == head
    assert config.framework.name == "self_supervised"
    assert (config.trainer.learning_rate, config.trainer.batch_size) == (rate, 256)
    assert (config.model.coding is not None) == coded
    assert config.model.image.frozen
    assert config.model.audio.kind == "vggish"
    assert config.model.audio.frozen
    with pytest.raises(ValueError, match=r"model\.image\.weights"):
        compose(asked, ROOT)


@pytest.mark.parametrize(("name", "kind"), [("tiny_dual", "vggish"), ("tiny_waveform", "waveform")])
def test_the_second_students_of_tiny_models_hear_differently(name: str, kind: str) -> None:
    """Apart from that they are ``tiny``."""
    model, tiny = compose([f"model={name}"], ROOT).model, compose(["model=tiny"], ROOT).model
    assert model.student(0) == tiny.student(0)
    assert model.student(1).audio.kind == kind
    assert model.student(1).image == tiny.image
