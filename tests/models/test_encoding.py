"""Encoders: trunks and what is trained on them; a trunk's key changes with all that decides its outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.conftest import MakeView

from avsl.models import Localizer, LocalizerConfig
from avsl.models.audio import JoinedEncoder, JoinedEncoderConfig, VGGishEncoderConfig, make_audio_encoder
from avsl.models.encoding import Encoder
from avsl.models.front_ends import LogMelConfig
from avsl.models.image import ImageEncoder

VGGISH = VGGishEncoderConfig(channels=(4, 6, 8, 10), hidden=12, frozen=True)


def _frozen(tiny: LocalizerConfig, **changes: object) -> LocalizerConfig:
    image = tiny.image.model_copy(update={"frozen": True, "dropout": 0.2})
    audio = tiny.audio.model_copy(update={"frozen": True})
    return tiny.model_copy(update={"image": image, "audio": audio} | changes)


@pytest.mark.parametrize("joined", [False, True])
def test_a_localizer_computes_the_same_from_the_outputs_of_its_trunks(
    joined: bool, tiny: LocalizerConfig, make_view: MakeView
) -> None:
    """Within half precision, without pixels and without waveforms."""
    config = _frozen(tiny)
    if joined:
        config = _frozen(tiny, audio=JoinedEncoderConfig(encoders=(VGGISH, config.audio)))
    model = Localizer(config).eval()
    view = make_view(3, seed=0, sound=True)
    image, audio = model.frozen_image(), model.frozen_audio()
    assert image is not None
    assert audio is not None
    assert view.waveform is not None
    seen = {image.key: tuple(x.half().float() for x in image.compute(view.frame))}
    heard = {audio.key: tuple(x.half().float() for x in audio.compute(view.waveform))}
    kept = replace(view, frame=torch.empty(3, 3, 0, 0), waveform=None, seen=seen, heard=heard)
    direct, cached = model(view), model(kept)
    torch.testing.assert_close(cached.logits, direct.logits, atol=0.02, rtol=0)
    torch.testing.assert_close(cached.audio, direct.audio, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="neither frames"):
        model(replace(kept, seen={"other": seen[image.key]}))
    with pytest.raises(ValueError, match="neither a waveform"):
        model(replace(kept, heard={}))


def test_a_frozen_trunk_is_in_evaluation_mode_from_the_start(tiny: LocalizerConfig) -> None:
    """Nothing sets a new module's mode before its training."""
    audio = JoinedEncoderConfig(encoders=(VGGISH, _frozen(tiny).audio))
    model = Localizer(_frozen(tiny, audio=audio))
    parts = [part for encoder in (model.image, model.audio) for part in encoder.trunk_modules()]
    assert not any(module.training for part in parts for module in part.modules())
    assert model.training


def test_what_is_trained_has_no_frozen_trunk(tiny: LocalizerConfig) -> None:
    """And of joined encoders all must be frozen."""
    assert Localizer(tiny).frozen_image() is None
    assert Localizer(tiny).frozen_audio() is None
    some = JoinedEncoderConfig(encoders=(VGGISH, VGGISH.model_copy(update={"frozen": False})))
    assert not JoinedEncoder(some, 4).frozen
    assert JoinedEncoder(JoinedEncoderConfig(encoders=(VGGISH, VGGISH)), 4).frozen


def test_a_key_changes_with_weights_and_settings_but_not_with_what_lies_above(tiny: LocalizerConfig) -> None:
    """Two encoders with equal trunks have one key, whatever their dropout and projection."""
    config = _frozen(tiny).image
    torch.manual_seed(0)
    first = ImageEncoder(config, 4)
    above = ImageEncoder(config.model_copy(update={"dropout": 0.0}), 6)
    assert above.trunk_key != first.trunk_key  # other weights
    above.load_state_dict({**above.state_dict(), **{k: v for k, v in first.state_dict().items() if "backbone" in k}})
    assert above.trunk_key == first.trunk_key
    levels = ImageEncoder(config.model_copy(update={"mean": (0.5, 0.5, 0.5)}), 4)
    levels.load_state_dict(first.state_dict())
    assert levels.trunk_key != first.trunk_key


def test_a_key_changes_with_the_front_end(tiny: LocalizerConfig) -> None:
    """Its settings are the encoder's."""
    audio = _frozen(tiny).audio
    assert audio.kind == "spectrogram"
    keys = set()
    for hop in (160, 200):
        torch.manual_seed(0)
        front_end = LogMelConfig(n_fft=256, hop_length=hop, n_mels=32)
        keys.add(make_audio_encoder(audio.model_copy(update={"front_end": front_end}), 4).trunk_key)
    assert len(keys) == 2


def test_a_held_trunk_stays_in_evaluation_mode_until_it_is_released(tiny: LocalizerConfig) -> None:
    """The layers on it do not."""
    model = Localizer(tiny).train()
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    for held in (True, False):
        for encoder in encoders:
            encoder.hold(held)
        model.train()
        assert [part.training for encoder in encoders for part in encoder.trunk_modules()] == [not held, not held]
        assert model.image.lateral.training
