"""The composed configuration: precedence, choices, and what a person, a stage and a file of values agree on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fixtures.messages import facts

from avsl.config.compose import as_override, compose, compose_group
from avsl.config.models import Config, Variant
from avsl.config.params import CONF, ratio_key
from avsl.files import project_root
from avsl.frameworks.dmt import DMTConfig
from avsl.frameworks.mean_teacher import MeanTeacherConfig
from avsl.frameworks.supervised import SupervisedConfig
from avsl.models.waveform import WaveformEncoderConfig
from avsl.schema import ConfigError

PARAMS: dict[str, Any] = {
    "seed": 3,
    "matrix": {"frameworks": ["dmt"], "ratios": [0.1]},
    "data": {"name": "synthetic", "synthetic": {"n_train": 60}},
    "split": {"label_ratio": 0.2},
    "model": {"name": "tiny", "dim": 24},
    "objective": {"name": "ezvsl", "ezvsl": {"temperature": 0.3}},
    "framework": {
        "name": "mean_teacher",
        "mean_teacher": {"delta": 0.7},
        "dmt": {"delta": 0.8, "tau": 0.25},
    },
    "trainer": {"name": "default", "epochs": 5},
}
Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a project with these params.yaml; merged one level deep into PARAMS."""

    def make(changes: dict[str, Any]) -> Path:
        params = dict(PARAMS)
        for key, value in changes.items():
            params[key] = params[key] | value if isinstance(params.get(key), dict) else value
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        return tmp_path

    return make


@pytest.fixture
def project(write: Write) -> Path:
    """A project with PARAMS as it is."""
    return write({})


def test_params_override_conf_and_the_command_line_overrides_params(project: Path) -> None:
    """config.yaml < params.yaml < command line, key by key; what nobody sets has its model's default."""
    plain = compose([], project)
    assert plain.split.label_ratio == 0.2, "config.yaml says otherwise"
    assert (plain.seed, plain.model.dim, plain.trainer.epochs) == (3, 24, 5)
    assert plain.trainer.batch_size == 64
    asked = compose(["split.label_ratio=0.5", "model.dim=16", "trainer.epochs=9", "seed=4"], project)
    assert (asked.seed, asked.split.label_ratio, asked.model.dim, asked.trainer.epochs) == (4, 0.5, 16, 9)
    assert asked.model.image == plain.model.image, "one key changed, its neighbors are as they were"


def test_an_experiment_stands_between_params_and_the_command_line(project: Path) -> None:
    """It makes its choices and sets its values over params.yaml; the command line has the last word."""
    experiment = project / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(
        "# @package _global_\n"
        "defaults:\n  - override /framework: dmt\n"
        "framework: {dmt: {tau: 0.75}}\nsplit: {label_ratio: 0.4}\nseed: 8\n"
    )
    config = compose(["experiment=mine", "seed=9"], project)
    assert config.framework.name == "dmt"
    assert config.framework.settings == DMTConfig(delta=0.8, tau=0.75)
    assert (config.split.label_ratio, config.seed) == (0.4, 9)


def test_threads_compose_at_the_same_time(project: Path) -> None:
    """Each gets what it asked for."""
    asked = [f"seed={seed}" for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        seeds = [config.seed for config in pool.map(lambda override: compose([override], project), asked)]
    assert seeds == list(range(16))


def test_every_experiment_composes(project: Path) -> None:
    """Each file in conf/experiment makes a configuration."""
    files = list((CONF / "experiment").glob("*.yaml"))
    assert files
    for path in files:
        text = path.read_text()
        needed = [f"data.{name}.root=somewhere" for name in ("vggss", "flickr") if f"/data: {name}" in text]
        if path.stem.startswith("sspl_"):
            needed += ["model.image.weights=a", "model.audio.weights=b"]
        compose([f"experiment={path.stem}", *needed], project)


def test_values_for_a_choice_apply_where_it_is_made(project: Path) -> None:
    """params.yaml's values for DMT are DMT's alone; a choice without values has its defaults."""
    assert compose(["framework=dmt"], project).framework.settings == DMTConfig(delta=0.8, tau=0.25)
    assert compose(["framework=supervised"], project).framework.settings == SupervisedConfig()
    others = compose(["model=resnet18", "data=vggss", "data.vggss.root=x"], project)
    assert (others.model.name, others.model.dim, others.data.name) == ("resnet18", 512, "vggss")
    assert others.framework.settings == MeanTeacherConfig(delta=0.7)


def test_overrides_and_an_edit_of_params_are_the_same_configuration(write: Write) -> None:
    """What a stage asks for on its command line and what a person writes into the file give equal values and hashes."""
    asked = compose(["framework=dmt", "split.label_ratio=0.1", "framework.dmt.tau=0.4"], write({}))
    changed = {**PARAMS["framework"], "name": "dmt", "dmt": {"delta": 0.8, "tau": 0.4}}
    edited = compose([], write({"framework": changed, "split": {"label_ratio": 0.1}}))
    assert asked == edited
    assert asked.training_hash() == edited.training_hash()


def test_composing_leaves_nothing_behind(project: Path) -> None:
    """One configuration does not depend on those composed before it."""
    first = compose([], project)
    compose(["framework=dmt", "framework.dmt.delta=0.1", "seed=7"], project)
    assert compose([], project) == first


def test_a_written_configuration_reads_back(project: Path) -> None:
    """What is dumped as JSON validates to an equal configuration."""
    config = compose(["framework=dmt"], project)
    written = config.model_dump(mode="json")
    assert written["framework"] == {"name": "dmt", "dmt": DMTConfig(delta=0.8, tau=0.25).model_dump()}
    assert Config.read(written, "") == config


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """PARAMS composed, without overrides."""
    root = tmp_path_factory.mktemp("plain")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return compose([], root)


def _changed(config: Config, path: str, value: Any) -> Config:
    """The configuration with one value in place of another."""
    written = config.model_dump(mode="json")
    section = written
    *sections, key = path.split(".")
    for name in sections:
        section = section[name]
    assert section[key] != value
    section[key] = value
    return Config.read(written, "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("framework.mean_teacher.delta", 0.71),
        ("framework", {"name": "dmt"}),
        ("split.label_ratio", 0.3),
        ("split.seed", 1),
        ("objective.ezvsl.temperature", 0.31),
        ("model.dim", 25),
        ("augment.flip", 0.4),
        ("trainer.learning_rate", 0.5),
        ("seed", 4),
    ],
)
def test_what_decides_a_training_changes_its_hash(plain: Config, path: str, value: Any) -> None:
    """Any value that changes the trained weights gives another hash."""
    assert _changed(plain, path, value).training_hash() != plain.training_hash()


@pytest.mark.parametrize(
    ("path", "value"), [("root", "elsewhere"), ("evaluate.gallery", 3), ("tracking.system_metrics", False)]
)
def test_what_does_not_decide_a_training_leaves_its_hash(plain: Config, path: str, value: Any) -> None:
    """Where files lie, how results are shown and where they are logged do not."""
    changed = _changed(plain, path, value)
    assert changed != plain
    assert changed.training_hash() == plain.training_hash()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("framework.mean_teacher.dleta=0.5", "framework.mean_teacher.dleta delta"),
        ("framework.mean_teacher.delta=1.5", "framework.mean_teacher.delta 1.5 1"),
        ("framework.dmt.delta=0.5", "framework.dmt 'mean_teacher'"),
        ("split.label_ratio=3%", "'split.label_ratio' '3%'"),
        ("split.label_ratio=abc", "split.label_ratio 'abc'"),
        ("framework=dtm", "framework 'dtm' dmt mean_teacher supervised"),
        ("objective=clip", "objective 'clip' ezvsl"),
        ("split.label_ratio=0", "'split.label_ratio' 0"),
        ("split.ratio=0.5", "split.ratio label_ratio"),
        ("splits.label_ratio=0.5", "'splits' split"),
        ("trainer.precision=fp16", "trainer.precision 'fp16' '32-true' 'bf16-mixed'"),
        ("trainer.labeled_batch_size=64", "trainer labeled_batch_size batch_size"),
        ("model.image.dropuot=0.1", "model.image.dropuot dropout"),
        ("model.audio.backbon=x", "model.audio.backbon backbone project"),
        ("model.audio.kind=mp3", "model.audio.kind 'mp3' spectrogram vggish waveform"),
        (
            "model.second.audio={kind: vggish, width: 1}",
            "model.second.audio.width channels kind",
        ),
        ("augment.flip=often", "augment.flip 'often'"),
        ("data=vggss", "data.vggss.root"),
        ("experiment=none", "experiment none scenes"),
        ("seed", "seed"),
        ("seed=1,2", "seed=1,2"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_naming_the_key(project: Path, override: str, message: str) -> None:
    """Unknown, out of range or missing: the key, and what is allowed."""
    with pytest.raises(ConfigError, match=facts(message)) as caught:
        compose([override], project)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framework": {"name": "dtm"}}, "framework 'dtm' dmt"),
        ({"framework": {"mean_teacher": {"tau": 0.1}}}, "framework.mean_teacher.tau"),
        ({"trainer": {"epochs": 0}}, "'trainer.epochs' 0"),
        ({"augmnt": {}}, "'augmnt' augment"),
        ({"matrix": {"ceilings": [1]}}, "params.yaml matrix.ceilings 1.0"),
        ({"plugins": ["nowhere_to_be_found"]}, "'plugins' 'nowhere_to_be_found'"),
        ({"model": 3}, "params.yaml model.name"),
    ],
)
def test_a_mistake_in_params_is_one_line_naming_the_key(write: Write, changes: dict[str, Any], message: str) -> None:
    """The same for the file of values."""
    if changes.get("model") == 3:
        project = write({})
        (project / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes))
    else:
        project = write(changes)
    with pytest.raises(ConfigError, match=facts(message)) as caught:
        compose([], project)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "params.yaml YAML"), ("- a", "params.yaml mapping")])
def test_params_that_are_no_sections_are_named(project: Path, text: str, message: str) -> None:
    """Broken YAML and a list are errors with the file's name."""
    (project / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=facts(message)) as caught:
        compose([], project)
    assert "\n" not in str(caught.value)


def test_the_project_is_found_from_within(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder inside; outside of any project it is the working directory."""
    inside = project / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert project_root() == project
    monkeypatch.chdir("/")
    assert project_root() == Path("/")


def test_without_params_every_group_has_its_default(tmp_path: Path) -> None:
    """An installed package works in an empty folder, and takes overrides there."""
    config = compose(["objective=fnac"], tmp_path)
    names = (config.data.name, config.model.name, config.objective.name, config.framework.name)
    assert names == ("synthetic", "tiny", "fnac", "dmt")


def test_a_project_adds_and_replaces_names(project: Path) -> None:
    """Files in conf/ beside params.yaml are found first; the package's others stay."""
    folder = project / "conf" / "model"
    folder.mkdir(parents=True)
    tiny = yaml.safe_load((CONF / "model" / "tiny.yaml").read_text())
    for name, stage in (("tiny", 1), ("mine", 2)):
        network = {**tiny, "name": name, "image": {**tiny["image"], "stages": [stage]}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(network))
    assert compose([], project).model.image.stages == (1,)
    assert compose(["model=mine"], project).model.image.stages == (2,)
    assert compose(["model=resnet18"], project).model.name == "resnet18"
    with pytest.raises(ConfigError, match=r"mien.*mine.*resnet18"):
        compose(["model=mien"], project)
    (folder / "tiny.yaml").write_text((folder / "mine.yaml").read_text().replace("name: mine", "name: tiny"))
    assert compose([], project).model.image.stages == (2,), "the edit of a file is seen at once"


TUNED = {"dmt": {"r10": {"trainer": {"learning_rate": 0.002}, "framework": {"dmt": {"delta": 0.33}}}}, "xpl": {}}


def test_what_a_sweep_found_lies_over_params_where_it_was_found(write: Write) -> None:
    """For that framework at that ratio alone, under the command line; its other values stay."""
    project = write({"tuned": TUNED})
    here = compose(["framework=dmt", "split.label_ratio=0.1"], project)
    assert here.framework.settings == DMTConfig(delta=0.33, tau=0.25)
    assert here.trainer.learning_rate == 0.002
    for elsewhere in (["framework=dmt"], ["split.label_ratio=0.1"], ["framework=xpl", "split.label_ratio=0.1"]):
        assert compose(elsewhere, project) == compose(elsewhere, write({"tuned": {}}))
        write({"tuned": TUNED})
    asked = compose(["framework=dmt", "split.label_ratio=0.1", "framework.dmt.delta=0.5"], project)
    assert asked.framework.settings == DMTConfig(delta=0.5, tau=0.25)


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ({"dtm": {}}, "tuned 'dtm' dmt"),
        ({"dmt": {"r3": {}}}, "tuned.dmt.r3 r03"),
        ({"dmt": {"r20": {"framework": {"dmt": {"dleta": 1}}}}}, "framework.dmt.dleta"),
    ],
)
def test_a_mistake_in_what_a_sweep_found_is_named(write: Write, tuned: dict[str, Any], message: str) -> None:
    """Edited by hand, it is as strict as the rest."""
    with pytest.raises(ConfigError, match=facts(message)):
        compose(["framework=dmt"], write({"tuned": tuned}))


@pytest.mark.parametrize(
    ("ratio", "key"), [(0.03, "r03"), (0.1, "r10"), (1.0, "r100"), (0.01, "r01"), (0.005, "r00_5"), (0.125, "r12_5")]
)
def test_a_ratio_as_a_key_has_no_dot(ratio: float, key: str) -> None:
    """Whole per cent in two digits or more, the rest behind an underscore."""
    assert ratio_key(ratio) == key


@pytest.mark.parametrize(
    "value", ["plain", "with space", "it's", "back\\slash", "end\\", "\\'", "a,b", "3", "true", 3, 0.1, 1e-5, True]
)
def test_a_value_written_as_an_override_comes_out_again(project: Path, value: str | float) -> None:
    """Whatever Hydra's grammar makes of its characters."""
    section = compose_group("tune", "demo", [as_override("tune.storage", value)], project)
    assert section["storage"] == value
    assert type(section["storage"]) is type(value)


def test_another_backbone_leaves_the_presets_arguments_behind(project: Path) -> None:
    """They belong to the backbone that they were written for; an encoder's settings to its kind."""
    preset = compose([], project).model
    assert preset.image.backbone_args
    image = compose(["model.image.backbone=resnet18"], project).model.image
    assert (image.backbone, image.backbone_args, image.stages) == ("resnet18", {}, preset.image.stages)
    given = ["model.image.backbone=resnet18", "model.image.backbone_args.stem_width=8"]
    assert compose(given, project).model.image.backbone_args == {"stem_width": 8}
    assert compose([f"model.image.backbone={preset.image.backbone}"], project).model == preset
    audio = compose(["model.audio.kind=waveform"], project).model.audio
    assert audio == WaveformEncoderConfig()


def test_a_backbone_of_params_yaml_replaces_the_presets_arguments(write: Write) -> None:
    """Its own arguments apply; the same backbone keeps the preset's; the command line has the last word."""
    project = write({"model": {"image": {"backbone": "resnet18"}}})
    assert compose([], project).model.image.backbone_args == {}
    assert compose(["model=resnet18", "model.dim=16"], project).model.dim == 16
    own = {"backbone": "resnet18", "backbone_args": {"stem_width": 8, "channels": [8, 8, 8, 8]}}
    project = write({"model": {"image": own}})
    assert compose([], project).model.image.backbone_args == own["backbone_args"]
    assert compose(["model.image.backbone=resnet26"], project).model.image.backbone_args == {}
    assert compose(["model.image.backbone_args.stem_width=16"], project).model.image.backbone_args["stem_width"] == 16
    plain = compose([], write({})).model.image
    same = compose([], write({"model": {"image": {"backbone": plain.backbone}}})).model.image
    assert same.backbone_args == plain.backbone_args != {}
    project = write({"model": {"audio": {"kind": "waveform", "channels": [8, 8]}}})
    audio = compose([], project).model.audio
    assert isinstance(audio, WaveformEncoderConfig)
    assert audio.channels == (8, 8)


def test_paths_start_at_the_project_from_any_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and the data set's folder; a training in a subfolder continues the one in the project's."""
    (tmp_path / "params.yaml").write_text("seed: 0")
    (tmp_path / "notebooks").mkdir()
    asked = ["data=vggss", "data.vggss.root=set", "split.label_ratio=0.1"]
    monkeypatch.chdir(tmp_path)
    above = compose(asked)
    monkeypatch.chdir(tmp_path / "notebooks")
    below = compose(asked)
    assert (above.root, below.root) == (Path("outputs"), tmp_path / "outputs")
    assert Path(getattr(below.data.settings, "root", "")) == tmp_path / "set"
    assert above.training_hash() == below.training_hash()
    elsewhere = compose([*asked, f"root={tmp_path}/other", "data.vggss.root=s3://bucket/set"])
    assert elsewhere.root == tmp_path / "other"
    assert getattr(elsewhere.data.settings, "root", "") == "s3://bucket/set"


@pytest.mark.parametrize("root", ["/media/größe x", "a=b", "(x)", "it's", "日本/clips", "C:\\x y"])
def test_a_value_that_hydra_refuses_is_the_text_that_was_typed(
    root: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spaces beside umlauts, signs of Hydra's grammar, quotes."""
    monkeypatch.chdir(project)
    settings = compose(["data=folder", f"data.folder.root={root}"], project).data.settings
    assert settings.model_dump()["root"] == root


def test_results_of_other_settings_lie_apart(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in the path and not as in params.yaml decides the folder; equal settings share it, whatever the cell.

    A stage of the DAG, another data set and a root that is given have the usual folders.
    """
    cell = ["framework=dmt", "objective=fnac", "split.label_ratio=0.5", "seed=9"]
    usual = [[], cell, ["evaluate.gallery=3"], ["tracking.system_metrics=false"], ["trainer.epochs=5"]]
    usual += [["trainer.epochs=1", "root=elsewhere"], ["data=folder", "data.folder.root=x", "trainer.epochs=1"]]
    for asked in usual:
        assert compose(asked, project).variant == Variant(), asked
    one = compose(["trainer.epochs=1"], project).variant
    assert one.keys == ("trainer.epochs",)
    assert (one.data, one.split) == ("", "")
    assert compose([*cell, "trainer.epochs=1"], project).variant == one
    assert compose(["trainer.epochs=2"], project).variant.train not in ("", one.train)
    both = compose(["split.seed=1", "trainer.epochs=1"], project).variant
    assert both.data == ""
    assert both.split == compose(["split.seed=1"], project).variant.train
    assert compose(["data.synthetic.n_train=8", "split.seed=1"], project).variant.data != ""
    monkeypatch.setenv("DVC_STAGE", "train")
    assert compose(["trainer.epochs=1"], project).variant == Variant()
