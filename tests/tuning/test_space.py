"""What is searched: how values are drawn, and what a command line asks for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from tests.fixtures.messages import facts

from avsl.config.compose import compose
from avsl.schema import ConfigError
from avsl.tuning.config import read_requests
from avsl.tuning.space import read_spaces

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _drawn(dimension: dict[str, Any], count: int = 400) -> list[Any]:
    """What a dimension of DMT's δ gives in so many random trials."""
    space = read_spaces({"dmt": {"delta": dimension}})["dmt"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    return [space["framework.dmt.delta"].suggest(study.ask(), "framework.dmt.delta") for _ in range(count)]


def test_a_number_is_drawn_uniformly() -> None:
    """Within its bounds, a half of it in each half, at four significant digits."""
    values = _drawn({"kind": "float", "low": 0.2, "high": 0.6})
    assert 0.2 <= min(values) < 0.21
    assert 0.59 < max(values) <= 0.6
    assert 0.4 < np.mean(np.array(values) < 0.4) < 0.6
    assert all(value == float(f"{value:.4g}") for value in values)


def test_a_logarithm_is_drawn_uniformly() -> None:
    """A decade has as many values as the next."""
    values = np.array(_drawn({"kind": "log", "low": 1e-4, "high": 1e-2}))
    assert values.min() >= 1e-4
    assert values.max() <= 1e-2
    assert 0.4 < np.mean(values < 1e-3) < 0.6


def test_a_decay_is_drawn_by_the_logarithm_of_what_it_lacks_to_one() -> None:
    """0.9 to 0.99 has as many values as 0.99 to 0.999; none of them is 1."""
    values = np.array(_drawn({"kind": "log_complement", "low": 0.9, "high": 0.999}))
    assert values.min() >= 0.9
    assert values.max() <= 0.999
    assert 0.4 < np.mean(values < 0.99) < 0.6


def test_whole_numbers_and_choices_are_all_drawn() -> None:
    """Every step of a range, every one of several values, and nothing else."""
    assert set(_drawn({"kind": "int", "low": 10, "high": 40, "step": 10})) == {10, 20, 30, 40}
    assert set(_drawn({"kind": "categorical", "values": ["linear", "root"]})) == {"linear", "root"}


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        ({"kind": "float", "low": 0.0, "high": 0.7}, 0.41),
        ({"kind": "log", "low": 1e-6, "high": 1e-2}, 1e-4),
        ({"kind": "log_complement", "low": 0.5, "high": 0.9999}, 0.99),
        ({"kind": "log_complement", "low": 0.5, "high": 0.9999}, 0.9),
        ({"kind": "int", "low": 10, "high": 40, "step": 10}, 30),
        ({"kind": "categorical", "values": ["linear", "root"]}, "root"),
    ],
)
def test_a_default_is_drawn_to_the_digit(dimension: dict[str, Any], value: Any) -> None:
    """What Optuna must draw for a value gives that value."""
    space = read_spaces({"dmt": {"delta": dimension}})["dmt"]["framework.dmt.delta"]
    study = optuna.create_study()
    study.enqueue_trial({space.name("delta"): space.to_optuna(value)})
    assert space.suggest(study.ask(), "delta") == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.trils=3", "tune.trils trials"),
        ("tune.trials=0", "'tune.trials' 0"),
        ("tune=ful", "'ful' demo full small"),
        ("tune.time_budget=soon", "tune.time_budget 'soon'"),
        ("tune.frameworks=[dtm]", "'dtm' dmt"),
        ("framework=dmt,dtm", "'dtm'"),
        ("framework.dmt.dleta=0.3", "framework.dmt.dleta"),
        ("split.label_ratio=0.5,2", "'split.label_ratio' 2"),
        ("split.label_ratio=0.5,0.50", "split.label_ratio 0.5"),
        ("framework=xpl,dmt,xpl", "framework xpl"),
        ("tune.spaces.dtm.delta.low=0", "tune.spaces 'dtm'"),
        ("tune.spaces.dmt.dleta={kind: float, low: 0, high: 1}", "framework.dmt.dleta dmt's"),
        ("tune.spaces.dmt.delta.hihg=1", "tune.spaces.dmt.delta.hihg high kind low"),
        ("tune.spaces.dmt.delta.kind=gauss", "tune.spaces.dmt.delta 'gauss' categorical"),
        ("tune.spaces.dmt.delta.high=0.1", "tune.spaces.dmt.delta 0.2 0.1"),
        ("tune.spaces.dmt.delta.high=1.5", "'framework.dmt.delta' 1.5"),
        ("tune.spaces.dmt.delta.low=0.5", "framework.dmt.delta 0.4"),
        ("tune.spaces.dmt.tau=0.3", "tune.spaces.dmt.tau 0.3"),
        ("tune.settings.data.synthetic.n_trian=3", "data.synthetic.n_trian"),
        ("seed=1,2", "seed=1,2"),
        (
            "tune.storage=s3://b/x",
            "tune.storage 's3://b/x' tune.results",
        ),
        ("tune.results=outputs/x", "tune.results 'outputs/x' s3://"),
    ],
)
def test_a_mistake_is_one_line_naming_the_key(project: Path, override: str, message: str) -> None:
    """Unknown, out of range, or a space that does not fit: nothing is run."""

    def look() -> None:
        for request in read_requests(["seed=0" if override.startswith("tune=") else "tune=small", override]):
            for framework in request.tune.frameworks:
                request.defaults(framework)

    with pytest.raises(ConfigError, match=facts(message)) as caught:
        look()
    assert "\n" not in str(caught.value)


def test_a_command_line_asks_for_several_searches(project: Path) -> None:
    """A ratio each; each framework keeps to what concerns it, and what is fixed is not searched."""
    asked = ["tune=small", "framework=xpl,dmt", "split.label_ratio=0.25,0.5", "framework.xpl.temperature=0.6", "seed=3"]
    requests = read_requests([*asked, "tune.time_budget=2h", "tune.spaces.dmt.tau=null"])
    assert [request.label_ratio for request in requests] == [0.25, 0.5]
    for request in requests:
        assert request.tune.frameworks == ("xpl", "dmt")
        assert request.tune.time_budget == 7200
        assert "framework.xpl.temperature" not in request.space("xpl")
        assert "framework.dmt.tau" not in request.space("dmt")
        xpl, dmt = (request.config(name, {}) for name in ("xpl", "dmt"))
        assert (xpl.framework.name, dmt.framework.name) == ("xpl", "dmt")
        assert xpl.framework.settings.model_dump()["temperature"] == 0.6
        assert {xpl.seed, dmt.seed} == {3}
        assert {xpl.split.label_ratio, dmt.split.label_ratio} == {request.label_ratio}


def test_a_share_of_a_gpu_is_trained_on(project: Path) -> None:
    """Without another word, and in what reproduces a trial; who says otherwise is heard."""
    (request,) = read_requests(["tune=small", "tune.resources.gpu=0.25"])
    assert request.config("dmt", {}).trainer.accelerator == "gpu"
    assert compose(request.searched("dmt", {})).trainer.accelerator == "gpu"
    (stated,) = read_requests(["tune=small", "tune.resources.gpu=0.25", "trainer.accelerator=cpu"])
    assert stated.config("dmt", {}).trainer.accelerator == "cpu"


def test_settings_of_a_sweep_are_its_own_and_reproduced(project: Path) -> None:
    """They lie over params.yaml where their choice is made, under the command line, and in what reproduces a trial."""
    (request,) = read_requests(["tune=demo", "trainer.epochs=2"])
    config = request.config("dmt", {"framework.dmt.delta": 0.31, "framework.dmt.ema_decay": 0.9876})
    assert config.data.settings.model_dump()["n_train"] == 1000
    assert config.trainer.epochs == 2
    values = {"framework.dmt.delta": 0.31, "framework.dmt.ema_decay": 0.9876}
    assert compose(request.searched("dmt", values)).model_copy(update={"variant": config.variant}) == config
    assert not math.isclose(compose([]).data.settings.model_dump()["n_train"], 1000)
    (other,) = read_requests(["tune=demo", "data=vggss", "data.vggss.root=x", "tune.settings.data.vggss.image_size=96"])
    assert other.config("dmt", {}).data.settings.model_dump()["image_size"] == 96


def test_what_a_sweep_sets_is_searched_and_what_a_person_sets_is_not(project: Path) -> None:
    """A sweep's settings move where its search starts; a key on the command line is fixed."""
    key = "framework.xpl.warmup_steps"
    asked = [
        "tune=demo",
        "framework=xpl",
        "tune.settings.framework.xpl.warmup_steps=0.2",
        "framework.xpl.pacing.length=0.4",
    ]
    (request,) = read_requests(asked)
    assert request.defaults("xpl")[key] == 0.2
    assert compose(["framework=xpl"]).framework.settings.model_dump()["warmup_steps"] == 8
    (stated,) = read_requests([*asked, f"{key}=100"])
    assert key not in stated.space("xpl")
    assert stated.config("xpl", {}).framework.settings.model_dump()["warmup_steps"] == 100


def test_the_full_search_fits_the_projects_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each space's ends are allowed and the values of params.yaml lie within, for every framework that has a space."""
    monkeypatch.chdir(Path(__file__).parents[2])
    frameworks = ("dmt", "xpl", "mean_teacher", "pseudo_label")
    for tune in ("full", "demo"):
        (request,) = read_requests([f"tune={tune}", f"framework={','.join(frameworks)}"])
        for framework in frameworks:
            values = request.defaults(framework)
            assert request.config(framework, values) == request.config(framework, {})
            assert {"trainer.learning_rate", "trainer.weight_decay"} < values.keys()
