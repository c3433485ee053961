"""The evaluation step, without and with an object prior."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from avsl.config import compose
from avsl.data.splits import Split
from avsl.engine.evaluate import evaluate
from avsl.engine.layout import Layout, read_run
from avsl.engine.train import train
from avsl.schema import ConfigError
from avsl.tracking.runs import open_store


@pytest.mark.slow
def test_an_object_prior_stands_beside_the_model(layout: Callable[..., Layout], tmp_path: Path) -> None:
    """The model's own figures stay; metrics.json and MLflow's tag say whether there was a prior; then not, again."""
    here = layout("framework=supervised", "trainer.epochs=1")
    asked = ["framework=supervised", "trainer.epochs=1"]
    train(asked)
    torch.manual_seed(0)
    weights = tmp_path / "imagenet.safetensors"
    save_file({n: t.contiguous() for n, t in timm.create_model("resnet10t").state_dict().items()}, weights)
    config = compose(asked)
    client = open_store(config.tracking, config.root).client
    run_id = read_run(here)["run_id"]
    prior = ["evaluate.ogl.backbone=resnet10t", f"evaluate.ogl.weights={weights}", "evaluate.ogl.alpha=0.3"]
    found = []
    for more in ([], prior, []):
        evaluate(asked + more)
        figures = json.loads((here.evaluation / "metrics.json").read_text())
        recorded = client.get_run(run_id).data
        assert recorded.tags["ogl"] == ("true" if more else "false")
        assert recorded.tags["n_of_N"] == "test 6 of 6, test_duet 4 of 4, test_offscreen 3 of 3, test_swap 5 of 5"
        assert recorded.metrics["test/ciou"] == figures["test"]["ciou"]
        found.append(figures)
    alone, both, again = found
    assert alone == again
    assert alone["ogl"] is None
    assert both | {"ogl": None} == alone
    assert (both["ogl"]["alpha"], both["ogl"]["weights"]) == (0.3, str(weights))
    assert both["ogl"]["test"]["n"] == alone["test"]["n"]
    recorded = client.get_run(run_id).data
    for key in ("ciou", "ciou_median", "auc"):
        assert recorded.metrics[f"ogl/test/{key}"] == both["ogl"]["test"][key]
    with np.load(here.evaluation / "validation.npz", allow_pickle=False) as stored:  # what the report draws
        assert stored["sample_id"].tolist() == Split.load(here.split).validation
        assert stored["confidence"].shape[0] == len(stored["ciou"])
        assert 0 <= stored["confidence"].min() <= stored["confidence"].max() <= 1
        assert (stored["ciou"] >= 0.5).mean() == alone["validation"]["ciou"]
    with pytest.raises(ConfigError, match=r"^evaluate\.ogl\.weights: cannot read none\.safetensors$"):
        evaluate([*asked, "evaluate.ogl.weights=none.safetensors"])
    with pytest.raises(ConfigError, match=r"^unknown key 'evaluate\.ogl\.beta': allowed are alpha, backbone, weights$"):
        evaluate([*asked, "evaluate.ogl.weights=w", "evaluate.ogl.beta=1"])
