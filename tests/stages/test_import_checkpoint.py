"""A published checkpoint from its file to scores and the registry, on a tiny data set and a real MLflow store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.fixtures.messages import facts
from torch import nn
from torchvision.models import resnet18

from avsl.cli import main
from avsl.config.compose import compose
from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import SplitConfig, make_split
from avsl.models import load_exported
from avsl.models.hashing import hash_model
from avsl.models.weights.published import load_published
from avsl.registry.versions import model_folder
from avsl.schema import ConfigError
from avsl.stages.import_checkpoint import import_checkpoint
from avsl.stages.register import register
from avsl.tracking.store import Store, TrackingError, open_store

_NAME = "avsl-synthetic-imported"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a project whose data set is prepared and split."""
    base = tmp_path_factory.mktemp("root") / "synthetic"
    parts = dict.fromkeys(("n_small", "n_duet", "n_swap", "n_unheard"), 0)
    settings = SyntheticConfig(
        image_size=64, duration_s=0.25, n_train=4, n_validation=4, n_test=4, n_offscreen=2, **parts
    )
    generate(settings, base / "prepared", 1)
    (base / "split" / "0.5").mkdir(parents=True)
    make_split(PreparedData.open(base / "prepared"), SplitConfig(label_ratio=0.5)).save(
        base / "split" / "0.5" / "0.json"
    )
    return base.parent


@pytest.fixture
def overrides(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What chooses that project."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return [f"root={root}", "data=synthetic", "split.label_ratio=0.5", "evaluate.gallery=2"]


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """The parts of an EZ-VSL or FNAC model, as its authors build them, with random weights."""
    torch.manual_seed(0)
    audnet = resnet18()
    audnet.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    networks = {
        "imgnet": resnet18(),
        "img_proj": nn.Conv2d(512, 512, 1),
        "audnet": audnet,
        "aud_proj": nn.Linear(512, 512),
    }
    for name in ("imgnet", "audnet"):
        networks[name].fc = nn.Identity()
    return networks


@pytest.fixture(scope="module")
def checkpoint(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their weights, as the training script leaves them."""
    path = tmp_path_factory.mktemp("published") / "best.pth"
    model = {f"{part}.{name}": t for part, network in networks.items() for name, t in network.state_dict().items()}
    torch.save({"model": model, "epoch": 1}, path)
    return path


@pytest.fixture
def store(overrides: list[str]) -> Store:
    """The project's MLflow store."""
    config = compose(overrides)
    return open_store(config.tracking, config.root)


@pytest.mark.slow
def test_a_published_model_is_scored_and_registered_beside_ours(
    root: Path, overrides: list[str], checkpoint: Path, networks: dict[str, nn.Module], store: Store, tmp_path: Path
) -> None:
    """By the command line: files, run, version, alias; with an object prior no second version; never a champion."""
    assert main(["import-checkpoint", "--from", "fnac", str(checkpoint), *overrides]) == 0
    folder = root / "synthetic" / "imported" / "fnac"
    figures = json.loads((folder / "metrics.json").read_text())
    assert (figures["method"], figures["test"]["n"], "ogl" in figures) == ("fnac", 4, False)
    assert figures["test_offscreen"]["n_silent"] == 2
    assert len((folder / "per_sample.csv").read_text().splitlines()) == 1 + 4 + 2
    assert (folder / "gallery.png").read_bytes().startswith(b"\x89PNG")
    _, description = load_exported(folder / "model")
    assert (description.threshold, description.image_size) == (figures["threshold"], 64)

    version = store.client.get_model_version_by_alias(_NAME, "fnac")
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    expected = {
        "source": "imported",
        "method": "fnac",
        "sha256": f"{digest}  best.pth",
        "model_hash": hash_model(folder / "model"),
        "validation_score": repr(figures["validation"]["ciou"]),
    }
    assert {key: version.tags[key] for key in expected} == expected
    run = store.client.get_run(version.tags["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/ciou"] == figures["test"]["ciou"]
    assert run.data.tags["ogl"] == "false"
    assert {key: run.data.tags[key] for key in ("source", "method", "sha256")} == dict(list(expected.items())[:3])
    artifacts = {file.path for file in store.client.list_artifacts(run.info.run_id, "evaluation")}
    names = ("metrics.json", "per_sample.csv", "validation.npz", "gallery.png")
    assert artifacts == {f"evaluation/{name}" for name in names}

    weights = tmp_path / "imagenet.safetensors"
    save_file(dict(resnet18().state_dict()), weights)
    import_checkpoint("fnac", [checkpoint], [*overrides, f"evaluate.ogl.weights={weights}"])
    guided = json.loads((folder / "metrics.json").read_text())
    assert guided | figures == guided
    assert guided["ogl"]["test"]["n"] == 4
    assert [v.version for v in store.client.search_model_versions(f"name = '{_NAME}'")] == [version.version]
    runs = store.client.search_runs([run.info.experiment_id], "tags.source = 'imported'")
    assert {r.data.tags["ogl"] for r in runs} == {"true", "false"}

    with model_folder(store, f"models:/{_NAME}@fnac") as (fetched, _):
        model, _ = load_exported(fetched)
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    sounds = torch.rand(2, 4000) - 0.5
    direct = load_published("fnac", [checkpoint])
    same, _ = load_exported(folder / "model")
    torch.testing.assert_close(model.predict(frames, sounds), same.predict(frames, sounds))
    assert all(torch.equal(a, b) for a, b in zip(direct.parameters(), model.members[0].parameters(), strict=True))

    with pytest.raises(TrackingError, match="gets no champion"):
        register(overrides)
    assert [registered.name for registered in store.client.search_registered_models()] == [_NAME]
    assert list(store.client.get_registered_model(_NAME).aliases) == ["fnac"]


def test_another_methods_checkpoint_leaves_nothing(root: Path, overrides: list[str], checkpoint: Path) -> None:
    """One sentence that names the file and what it lacks; no folder, no run."""
    with pytest.raises(ConfigError, match=facts("best.pth 'audnet.conv1_a.weight'")):
        import_checkpoint("lvs", [checkpoint], overrides)
    assert not (root / "synthetic" / "imported" / "lvs").exists()
