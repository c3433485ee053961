"""Epoch means: the loss terms and the quality of pseudo-labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fixtures.trainings import Fit, Where, recorded_steps

from avsl.functional.geometry import warp
from avsl.records import RunRecord
from avsl.stages.train import train
from avsl.types import SemiBatch, StepOutput


@pytest.mark.slow
def test_every_epoch_is_recorded_with_terms_and_pseudo_labels(layout: Where) -> None:
    """Loss terms by name, acceptance, agreement and the pseudo-labels' quality are in curves and MLflow alike."""
    train(["framework=dmt"])
    lines: list[dict[str, Any]] = list(csv.DictReader((layout().train / "curves.csv").read_text().splitlines()))
    assert [float(line["epoch"]) for line in lines] == [1, 2]
    last = {key: float(value) for key, value in lines[-1].items()}
    terms = {f"{term}_{student}" for term in ("supervised", "contrastive", "unlabeled") for student in "ab"}
    rates = ("acceptance", "agreement", "precision", "recall", "iou")
    assert {f"train/{term}" for term in terms} | {f"pseudo/{rate}" for rate in rates} <= set(last)
    assert all(0 <= last[f"pseudo/{rate}"] <= 1 for rate in rates)
    assert last["pseudo/acceptance"] > 0
    assert last["train/unlabeled_a"] > 0
    recorded = recorded_steps(RunRecord.load(layout().train).run_id)
    assert set(last) - {"epoch"} <= set(recorded)


def test_pseudo_labels_are_measured_in_the_view_they_were_made_in(fit: Fit) -> None:
    """The truth, seen through the weak view's crop, has an IoU of 1 with the truth."""

    def tell_the_truth(original: Callable[..., StepOutput], batch: SemiBatch, number: int, rows: Any) -> StepOutput:
        output = original(batch, number)
        assert batch.unlabeled is not None
        assert batch.unlabeled.weak is not None
        if output.pseudo is None:
            return output
        truth = warp(rows.hidden[:, None], batch.unlabeled.weak.geometry, mode="nearest")[:, 0]
        return replace(output, pseudo=replace(output.pseudo, mask=truth, accepted=torch.ones(len(truth)) > 0))

    asked = ["framework=mean_teacher", "framework.mean_teacher.warmup_steps=1", "augment.weak_scale=0.4"]
    (epoch,) = fit(*asked, step=tell_the_truth).history
    assert epoch["pseudo/iou"] > 0.85
