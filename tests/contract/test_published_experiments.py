"""The experiments at published size: published settings whatever params.yaml says, and a network that fits them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avsl.build import make_branch
from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.data.transforms import AugmentConfig
from avsl.frameworks.dmt import DMTConfig
from avsl.frameworks.xpl import XPLConfig
from avsl.functional.geometry import identity
from avsl.objectives.ezvsl import EZVSLConfig
from avsl.objectives.fnac import FNACConfig
from avsl.objectives.lvs import LVSConfig
from avsl.objectives.slavc import SLAVCConfig
from avsl.objectives.sspl import SSPLConfig
from avsl.schema import StrictConfig
from avsl.training.loop import warm_ups
from avsl.types import AVBatch

ROOT = Path(__file__).parents[2]


def _compose(experiment: str) -> Config:
    data = experiment.split("_")[1]
    return compose([f"experiment={experiment}", f"data.{data}.root=somewhere"], ROOT)


@pytest.mark.parametrize("data", ["vggss", "flickr"])
@pytest.mark.parametrize(
    ("objective", "published"),
    [
        ("ezvsl", EZVSLConfig()),
        ("lvs", LVSConfig()),
        ("slavc", SLAVCConfig(momentum_inference=True)),
        ("fnac", FNACConfig()),
    ],
)
def test_objectives_have_their_published_settings(objective: str, published: StrictConfig, data: str) -> None:
    """params.yaml's own, made for the embedded data set, do not reach them."""
    config = _compose(f"{objective}_{data}")
    assert config.data.name == data
    assert config.objective.settings == published
    assert config.framework.name == "self_supervised"
    assert (config.model.dim, config.trainer.learning_rate) == (512, 1e-4)
    assert config.start.epochs == 0


@pytest.mark.parametrize("data", ["vggss", "flickr"])
@pytest.mark.parametrize(("framework", "settings"), [("dmt", DMTConfig()), ("xpl", XPLConfig())])
def test_frameworks_have_their_default_settings_at_published_size(
    framework: str, settings: StrictConfig, data: str
) -> None:
    """params.yaml's own do not reach them; warm-up, pacing and average fit however many steps there are."""
    config = _compose(f"{framework}_{data}")
    assert (config.data.name, config.framework.name, config.objective.settings) == (data, framework, EZVSLConfig())
    assert config.framework.settings == settings
    assert config.augment == AugmentConfig()
    assert (config.model.dim, config.trainer.epochs, config.start.epochs) == (512, 20, 0)
    assert config.augment.strong_scale < config.augment.weak_scale
    steps = 22_500  # of 144,000 clips
    waits = list(warm_ups(config, steps).values())
    assert 0.05 * steps < max(waits) < 0.5 * steps
    assert max(waits) == config.framework.settings.in_steps(steps).model_dump()["warmup_steps"]


def test_a_method_on_other_data_waits_for_a_share_of_its_training() -> None:
    """params.yaml's settings, made for the embedded data set, are no numbers of steps."""
    for framework in ("pseudo_label", "mean_teacher", "xpl", "dmt"):
        config = compose([f"framework={framework}", "data=vggss", "data.vggss.root=somewhere"], ROOT)
        short, long = (max(warm_ups(config, steps).values()) for steps in (1_000, 100_000))
        assert 0 < short < 1_000
        assert long == pytest.approx(100 * short, rel=0.01)
        found = [config.framework.settings.in_steps(steps).model_dump() for steps in (1_000, 100_000)]
        if "ema_decay" in found[0]:
            assert found[0]["ema_decay"] is None
            assert found[1]["ema_half_life"] == pytest.approx(100 * found[0]["ema_half_life"], rel=0.01)
        if "pacing" in found[0]:
            assert found[1]["pacing"]["length"] == pytest.approx(100 * found[0]["pacing"]["length"], rel=0.01)


def test_lvs_looks_through_a_finer_grid() -> None:
    """A 224 px frame and 3 s of sound, in the branch that is trained: 512 channels on 14 x 14 cells, not projected."""
    branch = make_branch(_compose("lvs_vggss"), 0, total_steps=1).eval()
    view = AVBatch(
        frame=torch.zeros(1, 3, 224, 224),
        waveform=torch.rand(1, 48000, generator=torch.Generator().manual_seed(0)) - 0.5,
        features={},
        index=torch.zeros(1, dtype=torch.int64),
        geometry=identity(1),
    )
    with torch.no_grad():
        (output,) = branch([view])
    assert output.visual.shape == (1, 512, 14, 14)
    assert output.audio.shape == (1, 512)
    assert branch.contrastive([output], 0).total.isfinite()
    assert bool((output.features >= 0).all()), "what follows the last ReLU would be a projection"


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
