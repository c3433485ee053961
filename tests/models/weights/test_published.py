"""Published checkpoints: converted, they give the published outputs; what is no such checkpoint is refused, unrun."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts, says
from tests.fixtures.reference import FillReference, LoadReference
from torch import Tensor

from avsl.functional.geometry import identity
from avsl.models import ExportedModel, Localizer, LocalizerEnsemble, load_exported, save_exported
from avsl.models.weights.published import PUBLISHED, load_published
from avsl.objectives.ezvsl import EZVSL, EZVSLConfig
from avsl.objectives.fnac import FNAC, FNACConfig
from avsl.objectives.lvs import LVS, LVSConfig
from avsl.objectives.slavc import SLAVC, SLAVCConfig
from avsl.schema import ConfigError
from avsl.types import AVBatch, AVOutput

TAU = 0.03  # by which the published maps are divided, LVS's and SSPL's apart
Weights = dict[str, Tensor]
Published = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> Published:
    """The arrays of official_checkpoints.npz."""
    return load_reference("official_checkpoints.npz")


@pytest.fixture(scope="module")
def make_weights(published: Published, fill_reference: FillReference) -> Callable[[str], Weights]:
    """Makes the weights with which a network's outputs were computed."""
    return lambda network: fill_reference(network, int(published["seed"]))


@pytest.fixture(scope="module")
def saved(make_weights: Callable[[str], Weights], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a network's weights as its authors' scripts leave them, in a file that is written once."""
    folder = tmp_path_factory.mktemp("published")

    def save(network: str) -> Path:
        path = folder / f"{network}.pth"
        if not path.exists():
            weights = make_weights(network)
            parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
            optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
            content: Any = {
                "fnac": {"model": parallel, "optimizer": optimizer, "epoch": 30, "best_cIoU": np.float64(0.4)},
                "ezvsl": {"model": weights, "optimizer": optimizer, "epoch": 20, "best_Auc": np.float64(0.4)},
                "slavc": {"model": parallel, "epoch": 20},
                "lvs": {"model_state_dict": parallel},
                "sspl_sound": parallel,
            }.get(network, weights)
            torch.save(content, path)
        return path

    return save


def _heard(model: Localizer, published: Published, features: str) -> AVBatch:
    """The published frames with the published features, both as they would be cached."""
    cached = published[features].float()
    if features == "vggish_log_mel":
        cached = cached.flatten(0, 2)[None, None].expand(2, -1, -1, -1)
    frame = published["image"].float()
    return AVBatch(frame, None, {model.audio.front_end.key: cached}, torch.arange(2), identity(2))


@torch.no_grad()
def _run(model: Localizer, published: Published, features: str = "spectrogram") -> AVOutput:
    output: AVOutput = model(_heard(model, published, features))
    return output


def _similarity(model: Localizer, output: AVOutput) -> Tensor:
    """S, from the logits that are made of it; scale and offset are the defaults, which no checkpoint has."""
    assert model.log_scale.exp().item() == pytest.approx(model.config.scale)
    assert model.offset.item() == model.config.offset
    return ((output.logits - model.offset) / model.log_scale.exp()).detach()


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.reference
@pytest.mark.slow
def test_ezvsl_and_fnac(saved: Callable[[str], Path], published: Published) -> None:
    """Maps, EZ-VSL's loss and FNAC's four terms."""
    for method in ("ezvsl", "fnac"):
        model = load_published(method, [saved(method)])
        output = _run(model, published)
        _close(_similarity(model, output) / TAU, published[f"{method}_maps"])
        if method == "ezvsl":
            _close(EZVSL(EZVSLConfig())([output], 0).total, published["ezvsl_loss"])
        else:
            parts = FNAC(FNACConfig())([output], 0).parts
            terms = torch.stack([parts[name] for name in ("contrastive", "fns_audio", "tns", "fns_image")])
            _close(terms, published["fnac_losses"])


@pytest.mark.reference
@pytest.mark.slow
def test_slavc_with_either_encoders(saved: Callable[[str], Path], published: Published) -> None:
    """The two heads' mean map of the trained and of the momentum encoders, and the loss between the two."""
    online, momentum = (load_published("slavc", [saved("slavc")], momentum=m) for m in (False, True))
    seen, target = _run(online, published), _run(momentum, published)
    _close(_similarity(online, seen) / TAU, published["slavc_maps"])
    _close(_similarity(momentum, target) / TAU, published["slavc_maps_momentum"])
    loss = SLAVC(SLAVCConfig())([replace(seen, momentum=target)], 0).total
    _close(loss, published["slavc_loss"])


@pytest.mark.reference
@pytest.mark.slow
def test_lvs_and_its_export(saved: Callable[[str], Path], published: Published, tmp_path: Path) -> None:
    """Maps of 14 x 14 and the logits; exported and loaded again, the same confidence."""
    model = load_published("lvs", [saved("lvs")])
    output = _run(model, published)
    _close(_similarity(model, output), published["lvs_maps"])
    objective = LVS(LVSConfig())
    _close(objective.scores(output) / objective.config.temperature, published["lvs_logits"])
    description = ExportedModel(
        members=[model.config], image_size=224, sample_rate=16000, duration_s=3.0, threshold=0.5
    )
    save_exported(tmp_path, LocalizerEnsemble([model]), description)
    again, _ = load_exported(tmp_path)
    with torch.no_grad():
        confidence = again(_heard(model, published, "spectrogram"))
    torch.testing.assert_close(confidence, output.confidence)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("coding", [True, False])
def test_sspl_in_files(coding: bool, saved: Callable[[str], Path], published: Published, tmp_path: Path) -> None:
    """With and without the coding module, in any order of files; the self-supervised head beside them is not used."""
    files = [saved("sspl_sound"), *([saved("sspl_pcm")] if coding else []), saved("sspl_frame")]
    head = tmp_path / "head.pth"
    torch.save({"module.projector.layer1.0.weight": torch.zeros(2, 2)}, head)
    model = load_published("sspl", [*files, head])
    output = _run(model, published, "vggish_log_mel")
    _close(_similarity(model, output), published["sspl_maps_pcm" if coding else "sspl_maps_without_pcm"])
    key = model.audio.front_end.key
    with torch.no_grad():
        encoding = model.audio(_heard(model, published, "vggish_log_mel").features[key])
        heard = model.audio.front_end(published["waveform"][None])
    _close(encoding.code, published["sspl_audio_embedding"].expand(2, -1))
    _close(encoding.embedding, published["sspl_audio_projection"].expand(2, -1))
    _close(heard.view(3, 1, 96, 64), published["vggish_log_mel"])


@pytest.mark.reference
@pytest.mark.slow
def test_what_does_not_fit_is_listed(make_weights: Callable[[str], Weights], tmp_path: Path) -> None:
    """Every missing, unexpected and misshapen tensor is named, as the file names it, in one sentence."""
    weights = make_weights("slavc")
    changed = ["imgnet.bn1.bias", "aud_proj2.weight", "img_proj1.bias", "decoder.weight"]
    del weights[changed[0]], weights[changed[1]]
    weights |= {changed[2]: torch.zeros(3), changed[3]: torch.zeros(1)}
    path = tmp_path / "changed.pth"
    torch.save(weights, path)
    with pytest.raises(ConfigError) as caught:
        load_published("slavc", [path])
    assert set(re.findall(r"'(.+?)'", str(caught.value))) == {*changed, "img_proj2.bias"}
    assert says(caught.value, path, "slavc (515,) (1024,)")
    other = tmp_path / "other.pth"
    torch.save({name: t for name, t in weights.items() if name.startswith("imgnet")}, other)
    with pytest.raises(ConfigError, match=facts("other.pth 'imgnet.conv1.weight'")):
        load_published("slavc", [path, other])


def test_a_request_that_cannot_be_met_is_one_sentence(tmp_path: Path) -> None:
    """An unknown method, momentum encoders of a method without, or no file."""
    known = ", ".join(sorted(PUBLISHED))
    with pytest.raises(ConfigError, match=facts(f"'avc' {known}")):
        load_published("avc", [tmp_path])
    with pytest.raises(ConfigError, match=facts("lvs slavc momentum")):
        load_published("lvs", [tmp_path], momentum=True)
    with pytest.raises(ConfigError, match=facts("fnac")):
        load_published("fnac", [])
