"""The evaluation step, without and with an object prior."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.fixtures.messages import facts, says

from avsl.cli import main
from avsl.config.compose import compose
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.registry.card import model_card
from avsl.schema import ConfigError
from avsl.stages.evaluate import evaluate
from avsl.stages.train import train
from avsl.tracking.runs import RESTORED_FROM
from avsl.tracking.store import TrackingError, open_store


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
    run_id = RunRecord.load(here.train).run_id
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
    assert "ogl" not in alone
    assert {key: both[key] for key in both if key != "ogl"} == alone
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
    with pytest.raises(ConfigError, match=facts("evaluate.ogl.weights none.safetensors")):
        evaluate([*asked, "evaluate.ogl.weights=none.safetensors"])
    with pytest.raises(ConfigError, match=facts("'evaluate.ogl.beta' alpha backbone")):
        evaluate([*asked, "evaluate.ogl.weights=w", "evaluate.ogl.beta=1"])
    # A store that lacks the run, and one in which it was recorded again.
    lost = "0" * 32
    RunRecord.load(here.train).model_copy(update={"run_id": lost}).save(here.train)
    with pytest.raises(TrackingError, match=facts(f"'{lost}' avsl models restore")):
        evaluate(asked)
    client.set_tag(run_id, RESTORED_FROM, lost)
    client.set_tag(run_id, "ogl", "")
    evaluate(asked)
    assert client.get_run(run_id).data.tags["ogl"] == "false"


@pytest.mark.slow
def test_a_test_part_that_is_all_silent_gives_what_can_be_scored(
    layout: Callable[..., Layout],
    draw_boxes: Callable[[PreparedData, Collection[str], NDArray[np.float32]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No source in view in any row: the false-positive rate in place of CIoU, by word too, and a card without it."""
    caplog.set_level(logging.INFO)
    asked = ["framework=supervised", "trainer.epochs=1"]
    here = layout(*asked)
    drawn = Split.load(here.split)
    silent = drawn.tests["test"]
    draw_boxes(PreparedData.open(here.prepared), silent, np.zeros((0, 4), np.float32))
    train(asked)
    assert main(["evaluate", *asked]) == 0
    figures = json.loads((here.evaluation / "metrics.json").read_text())
    rate = figures["test"]["false_positive_rate"]
    boxed = {name: share for name, share in figures["test"].items() if name.startswith("boxed_")}
    assert {"boxed_silence", "boxed_noise"} <= boxed.keys()
    assert figures["test"] == boxed | {
        "n": 0,
        "n_silent": len(silent),
        "n_listed": len(silent),
        "false_positive_rate": rate,
        "by_size": {},
        "by_class": {},
    }
    assert figures["baselines"] == {}
    assert not {"ap", "max_f1"} & figures["test_offscreen"].keys(), "nothing there could be detected"
    assert figures["validation"]["n"] == len(drawn.validation)
    assert says(caplog.text, "test", f"{100 * rate:.1f} %")
    config = compose(asked)
    recorded = open_store(config.tracking, config.root).client.get_run(RunRecord.load(here.train).run_id).data.metrics
    assert recorded["test/false_positive_rate"] == rate
    card = model_card("avsl-a", here.train, here.evaluation, drawn, "the only one")
    assert says(card, "test:", f"{100 * rate:.1f} %", len(silent))
    assert says(card, "the only one.")
    assert "median threshold" not in card
