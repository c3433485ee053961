"""MLflow's own pages over runs and models recorded here, as Chromium shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from avsl.models.hashing import hash_model
from avsl.registry.promotion import promote
from avsl.registry.rules import Candidate
from avsl.registry.versions import ModelCode
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingConfig, open_store

pytestmark = pytest.mark.slow

_SCORES = {"dmt": 0.75, "mean_teacher": 0.5, "supervised": 0.625}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, code: ModelCode) -> tuple[Store, list[str]]:
    """A store of three runs of one label ratio, the first of which is champion; and the runs' ids."""
    root = tmp_path_factory.mktemp("recorded")
    store = open_store(TrackingConfig(system_metrics=False), root)
    runs = []
    for framework, score in _SCORES.items():
        stage = f"train@{framework}-ezvsl-0.03"
        tags = RunTags(framework, "ezvsl", 0.03, 7, "da7a0123" + "0" * 56, "s", "c0de" * 10, stage)
        params = {"framework": {"name": framework, framework: {"delta": score}}, "seed": 7}
        with start_or_resume_run(store, "synthetic", f"{framework}-ezvsl 0.03 seed 7", tags, params) as run:
            for epoch in (1, 2):
                run.log_epoch({"val/ciou": score * epoch / 2, "train/loss": 1 / epoch}, epoch)
            run.log_epoch({"validation/ciou": score}, 2)
        runs.append(run.run_id)
    model = root / "model"
    model.mkdir()
    (model / "model.json").write_text('{"threshold": 0.4}')
    (model / "model.safetensors").write_bytes(b"weights")
    card = "# A card\n\nTrained with **90 labels**."
    names = ("dmt", "ezvsl", 0.75, "CIoU", "s", "synthetic", 0.03)
    champion = Candidate(runs[0], *names, model, hash_model(model))
    promote(store, [champion], "synthetic", 0.03, "s", "CIoU", code, describe=lambda *_: card)
    return store, runs


@pytest.fixture(scope="module")
def address(
    recorded: tuple[Store, list[str]],
    serve: Callable[..., AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Of a server on that store, as `make ui` starts it."""
    with serve(tmp_path_factory.mktemp("server"), "--backend-store-uri", recorded[0].uri) as found:
        yield found


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A wide page: its side panels leave little room for columns."""
    page = chromium.new_page(viewport={"width": 1900, "height": 1000})
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    yield page
    page.close()


def _go(page: Page, address: str, where: str) -> None:
    mark = "&" if "?" in where else "?"
    page.goto(f"{address}/#/{where}{mark}workflowType=machine_learning")


def test_the_list_of_runs_says_what_each_is(page: Page, address: str) -> None:
    """By its default columns: name (framework, objective, label ratio, seed), data set with its version, source."""
    _go(page, address, "experiments/1")
    for framework in _SCORES:
        expect(page.get_by_role("link", name=f"{framework}-ezvsl 0.03 seed 7")).to_be_visible()
        expect(page.get_by_text(f"train@{framework}-ezvsl-0.03")).to_be_visible()
    expect(page.get_by_text("synthetic (da7a0123)")).to_have_count(3)


def test_the_view_of_scores_has_their_columns(page: Page, address: str) -> None:
    """The address that `make ui` prints."""
    _go(page, address, "experiments/1/runs?viewStateShareKey=scores")
    for column in ("validation/ciou", "framework", "label_ratio", "seed"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_visible()
    for score in _SCORES.values():
        expect(page.get_by_role("gridcell", name=str(score)).first).to_be_visible()


def test_runs_of_one_ratio_compare(page: Page, address: str, recorded: tuple[Store, list[str]]) -> None:
    """The parallel coordinates begin with the framework and the validation score; every run has its column."""
    _, runs = recorded
    _go(page, address, f"compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps(['1']))}")
    expect(page.get_by_role("heading", name="Comparing 3 Runs from 1 Experiment")).to_be_visible()
    axes = page.locator(".parcoords text.axis-title, svg .axis-title")
    expect(axes.first).to_have_text("framework")
    expect(axes.last).to_have_text("val/ciou")
    for framework in _SCORES:
        expect(page.get_by_text(f"{framework}-ezvsl 0.03 seed 7").first).to_be_visible()


def test_a_registered_model_has_its_card_and_its_champion(page: Page, address: str) -> None:
    """The model's page lists the champion's version, whose page has the card, tags and signature."""
    name = "avsl-synthetic-ratio-0.03"
    _go(page, address, f"models/{name}")
    expect(page.get_by_role("link", name="Version 1")).to_be_visible()
    expect(page.get_by_text("champion").first).to_be_visible()
    _go(page, address, f"models/{name}/versions/1")
    expect(page.get_by_role("heading", name="A card")).to_be_visible()
    expect(page.get_by_text("90 labels")).to_be_visible()
    expect(page.get_by_text("label_ratio")).to_be_visible()
    expect(page.get_by_text("Inputs (1)")).to_be_visible()
