"""Settings of methods out of range, contradictory or unknown are refused by their key."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fixtures.messages import facts

from avsl.frameworks import FRAMEWORKS
from avsl.models.coding import PredictiveCodingConfig
from avsl.objectives import OBJECTIVES
from avsl.schema import ConfigError, StrictConfig

CONFIGS: dict[str, type[StrictConfig]] = {
    **{f"objective.{name}": config for name, (_, config) in OBJECTIVES.items()},
    **{f"framework.{name}": config for name, (_, config) in FRAMEWORKS.items()},
    "model.coding": PredictiveCodingConfig,
}


@pytest.mark.parametrize(
    ("where", "settings", "stated"),
    [
        ("objective.ezvsl", {"temperature": 0}, "temperature 0"),
        ("objective.ezvsl", {"pooling": "mean"}, "pooling 'mean' 'max' 'logsumexp' 'topk'"),
        ("objective.ezvsl", {"topk": 0}, "topk 0"),
        ("objective.ezvsl", {"tau": 0.1}, "tau pooling sharpness temperature topk"),
        ("objective.fnac", {"temperature": 0}, "temperature 0"),
        ("objective.fnac", {"pooling": "mean"}, "pooling 'mean' 'max' 'logsumexp' 'topk'"),
        ("objective.fnac", {"foreground_threshold": 1}, "foreground_threshold 1"),
        ("objective.fnac", {"tns_weight": -1}, "tns_weight -1"),
        ("objective.fnac", {"warmup_steps": -1}, "warmup_steps -1"),
        ("objective.fnac", {"weight": 1}, "weight fns_audio_weight fns_image_weight"),
        ("objective.lvs", {"positive_threshold": 1.5}, "positive_threshold 1.5"),
        ("objective.lvs", {"negative_threshold": 0.7}, "negative_threshold positive_threshold"),
        ("objective.lvs", {"mask_temperature": 0}, "mask_temperature 0"),
        ("objective.lvs", {"temperature": -1}, "temperature -1"),
        ("objective.lvs", {"epsilon": 0.1}, "epsilon mask_temperature temperature"),
        ("objective.slavc", {"temperature": 0}, "temperature 0"),
        ("objective.slavc", {"momentum": 1}, "momentum 1"),
        ("objective.slavc", {"momentum_inference": "never"}, "momentum_inference 'never'"),
        ("objective.slavc", {"tau": 1}, "tau momentum momentum_inference temperature"),
        ("objective.sspl", {"dim": 0}, "dim 0"),
        ("objective.sspl", {"lr_scale": -1}, "lr_scale -1"),
        ("objective.sspl", {"width": 4}, "width bottleneck dim hidden lr_scale"),
        ("framework.pseudo_label", {"delta": 2}, "delta 2"),
        ("framework.pseudo_label", {"ema_decay": 0.9}, "ema_decay delta"),
        ("framework.dmt", {"delta": 1.2}, "delta 1.2"),
        ("framework.dmt", {"tau": -0.1}, "tau -0.1"),
        ("framework.dmt", {"ema_decay": 1.0}, "ema_decay 1.0"),
        ("framework.dmt", {"unlabeled_weight": -1}, "unlabeled_weight -1"),
        ("framework.dmt", {"warmup_steps": -1}, "warmup_steps -1"),
        ("framework.dmt", {"beta": 0.9}, "beta ema_decay"),
        ("framework.xpl", {"temperature": 0}, "temperature 0"),
        ("framework.xpl", {"temperature": 1.5}, "temperature 1.5"),
        ("framework.xpl", {"label_momentum": 1.0}, "label_momentum 1.0"),
        ("framework.xpl", {"pacing": {"shape": "cubic"}}, "pacing.shape 'cubic' linear root step"),
        ("framework.xpl", {"pacing": {"begin": 0.9}}, "pacing.begin end length"),
        ("framework.xpl", {"delta": 0.5}, "delta contrastive_weight cross"),
        ("model.coding", {"cycles": 0}, "cycles 0"),
    ],
)
def test_bad_settings_name_the_key(where: str, settings: dict[str, Any], stated: str) -> None:
    """With the value and what is allowed."""
    with pytest.raises(ConfigError, match=facts(where, stated)):
        CONFIGS[where].read(settings, where)
