"""Training: what is resumed, what is not, and what decides the weights."""

from __future__ import annotations

import contextlib
import csv
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tests.fixtures.messages import facts, says
from torch import Tensor, nn

from avsl.build import make_framework, make_reader
from avsl.config.compose import compose
from avsl.data.loading import StepLoader, TrainingRows
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.data.transforms import plain_view
from avsl.frameworks import FRAMEWORKS
from avsl.frameworks.xpl import XPL
from avsl.models import load_exported
from avsl.paths import Layout
from avsl.records import RunRecord
from avsl.schema import ConfigError
from avsl.stages.prepare import load_data, split
from avsl.stages.train import train
from avsl.tracking.store import open_store
from avsl.training import loop as fit
from avsl.training.checkpoint import find_checkpoint
from avsl.training.errors import TrainingError
from avsl.training.loop import identity
from avsl.training.module import SemiModule
from avsl.training.nonfinite import NonFiniteGuard

_Where = Callable[..., Layout]
_DrawBoxes = Callable[[PreparedData, Collection[str], NDArray[np.float32]], None]


class _KilledError(Exception):
    """Stands for whatever ends a training."""


@contextlib.contextmanager
def _killed_at(step: int) -> Iterator[None]:
    """The training inside ends when it asks for the rows of ``step``."""
    rows = StepLoader.rows

    def dying(self: StepLoader, number: int) -> TrainingRows:
        if number == step:
            raise _KilledError
        return rows(self, number)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_KilledError):
        patch.setattr(StepLoader, "rows", dying)
        yield
        pytest.fail(f"the training did not reach step {step}")


def _outcome(layout: Layout) -> tuple[bytes, str]:
    """All that must agree between two trainings: weights to the bit, and the curves."""
    return (layout.train / "model" / "model.safetensors").read_bytes(), (layout.train / "curves.csv").read_text()


def _points(run_id: str) -> dict[str, list[int]]:
    """The steps recorded in MLflow, by metric."""
    config = compose()
    client = open_store(config.tracking, config.root).client
    return {
        key: [p.step for p in client.get_metric_history(run_id, key)] for key in client.get_run(run_id).data.metrics
    }


def _runs() -> dict[str, str]:
    """The MLflow runs of the project and how they ended."""
    config = compose()
    client = open_store(config.tracking, config.root).client
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[bytes, str]]:
    """Weights and curves of a training that nothing interrupts."""
    done: dict[tuple[str, ...], tuple[bytes, str]] = {}

    def outcome(*overrides: str) -> tuple[bytes, str]:
        if overrides not in done:
            with contextlib.chdir(template):
                root = f"root={tmp_path_factory.mktemp('undisturbed')}"
                wanted = Layout.of(compose([*overrides, root]))
                wanted.base.mkdir(parents=True)
                wanted.prepared.symlink_to(Layout.of(compose()).prepared.resolve())
                split([*overrides, root])
                train([*overrides, root])
                done[overrides] = _outcome(wanted)
        return done[overrides]

    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_resumed_training_ends_as_an_undisturbed_one(
    framework: str, layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Interrupted in both epochs, a training has the same weights to the bit, the same curves and one MLflow run."""
    caplog.set_level(logging.INFO)
    asked = [f"framework={framework}"]
    here = layout(*asked)
    for step, kept in ((2, 2), (5, 4)):
        with _killed_at(step):
            train(asked)
        saved = torch.load(here.state / "last.ckpt", weights_only=True)
        assert saved["global_step"] == kept
        assert {path.name for path in here.state.iterdir()} <= {"last.ckpt", "last.lock"}
        assert not here.train.exists()
    train(asked)
    assert caplog.text.count("continuing from") == 2
    assert _outcome(here) == undisturbed(*asked)
    assert not here.state.exists()
    run_id = RunRecord.load(here.train).run_id
    assert run_id == saved["stamp"]["run_id"]
    assert _runs() == {run_id: "FINISHED"}
    points = _points(run_id)
    assert points["train/loss"] == points["val/ciou"] == [1, 2]
    assert all(len(steps) == len(set(steps)) for steps in points.values())


@pytest.mark.slow
def test_a_process_that_is_killed_is_continued(
    project: Path, layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGKILL, when nothing gets to clean up, the next training goes on in the same MLflow run."""
    caplog.set_level(logging.INFO)
    script = (
        "import os, signal\n"
        "from avsl.data.loading import StepLoader\n"
        "from avsl.stages.train import train\n"
        "rows = StepLoader.rows\n"
        "def dying(self, number):\n"
        "    if number == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rows(self, number)\n"
        "StepLoader.rows = dying\n"
        "train(['framework=dmt'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (run_id,) = _runs()
    train(["framework=dmt"])
    assert "continuing from" in caplog.text
    assert _outcome(layout()) == undisturbed("framework=dmt")
    assert _runs() == {run_id: "FINISHED"}


@pytest.mark.slow
def test_another_delta_starts_again(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The old δ's checkpoint is left aside, said so, and decides nothing: neither weights, curves nor MLflow run."""
    caplog.set_level(logging.INFO)
    with _killed_at(5):
        train()
    (old,) = _runs()
    other = "framework.dmt.delta=0.2"
    train([other, "root=outputs"])
    assert says(caplog.text, layout().state / "last.ckpt")
    assert _outcome(layout()) == undisturbed(other)
    assert undisturbed(other) != undisturbed("framework=dmt")
    assert RunRecord.load(layout().train).run_id != old


@pytest.mark.slow
def test_a_checkpoint_belongs_to_one_configuration_split_and_code(
    layout: _Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides the weights must be equal for a checkpoint to be continued; what does not may differ."""
    with _killed_at(2):
        train()
    checkpoint, drawn = layout().state / "last.ckpt", Split.load(layout().split)
    (run_id,) = _runs()

    def found(*overrides: str) -> str | None:
        return find_checkpoint(checkpoint, identity(compose(overrides), drawn))

    assert found() == run_id
    assert found("evaluate.batch_size=7", "tracking.system_metrics=true") == run_id
    for change in ("seed=1", "trainer.learning_rate=0.5", "augment.noise=0.5", "objective.ezvsl.temperature=0.5"):
        assert found(change) is None, change
    split(["split.seed=1", "root=outputs"])
    assert find_checkpoint(checkpoint, identity(compose(), Split.load(layout().split))) is None
    monkeypatch.setattr(fit, "code_hash", lambda config: "edited")
    assert found() is None


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated checkpoint is named and the training starts again."""
    with _killed_at(5):
        train()
    checkpoint = layout().state / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    train()
    assert says(caplog.text, checkpoint)
    assert _outcome(layout()) == undisturbed("framework=dmt")


@pytest.mark.slow
def test_a_checkpoint_replaces_the_last_one_only_when_it_is_whole(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]]
) -> None:
    """A training that dies while it writes its second checkpoint goes on from the first."""
    save = lightning.Trainer.save_checkpoint

    def dying(self: lightning.Trainer, path: Path) -> None:
        save(self, path)
        if self.global_step > 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise _KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", dying)
        with pytest.raises(_KilledError):
            train()
    assert torch.load(layout().state / "last.ckpt", weights_only=True)["global_step"] == 2
    train()
    assert _outcome(layout()) == undisturbed("framework=dmt")


@pytest.mark.slow
def test_without_labels_it_does_not_matter_which_rows_have_them(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]]
) -> None:
    """Self-supervised learning draws all rows alike: half of them labeled in place of a quarter change no weight."""
    asked = ["framework=self_supervised", "split.label_ratio=0.5"]
    assert undisturbed(*asked)[0] == undisturbed("framework=self_supervised")[0]


def test_a_second_training_on_the_same_state_is_refused(layout: _Where) -> None:
    """Two processes never share a checkpoint: the second one names the folder and leaves no run."""
    state = layout().state
    state.mkdir(parents=True)
    with FileLock(state / "last.lock"), pytest.raises(TrainingError, match=facts(state)):
        train()
    assert not _runs()


def test_a_missing_accelerator_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the key and what is allowed; no run is left."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=facts("trainer.accelerator gpu cpu")):
        train(["trainer.accelerator=gpu"])
    assert not _runs()


@contextlib.contextmanager
def _spoilt_at(*steps: int) -> Iterator[None]:
    """The sounds of the labeled rows of some steps are NaN."""
    rows = StepLoader.rows

    def broken(self: StepLoader, number: int) -> TrainingRows:
        drawn = rows(self, number)
        if number not in steps:
            return drawn
        spoilt = {key: f * float("nan") for key, f in drawn.labeled.features.items()}
        return replace(drawn, labeled=replace(drawn.labeled, features=spoilt))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLoader, "rows", broken)
        yield


@pytest.mark.parametrize(("step", "waits", "kept"), [(0, False, 0), (3, False, 2), (3, True, 2), (5, True, 4)], ids=str)
def test_a_step_that_is_not_finite_ends_the_training(
    step: int, waits: bool, kept: int, layout: _Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step, its rows and the last checkpoint, which is from before, however late one looks."""
    if waits:  # as on a GPU, where nobody looks until a checkpoint or the validation is due
        monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", lambda *_: None)
    asked: list[TrainingRows] = []
    rows = StepLoader.rows

    def noted(self: StepLoader, number: int) -> TrainingRows:
        asked.append(rows(self, number))
        return asked[-1]

    monkeypatch.setattr(StepLoader, "rows", noted)
    with _spoilt_at(step), pytest.raises(TrainingError) as caught:
        train()
    here = layout()
    spoilt = next(drawn for drawn in asked if drawn.step == step)
    assert spoilt.unlabeled is not None
    known = PreparedData.open(here.prepared).sample_ids
    ids = ", ".join(known[k] for k in [*spoilt.labeled.index.tolist(), *spoilt.unlabeled.index.tolist()])
    checkpoint = here.state / "last.ckpt"
    good = f"{checkpoint}, after {kept} steps" if kept else "none yet"
    what = f"the loss or its gradient is not finite, or beyond trainer.loss_limit, in step {step}"
    start = f"{what} (rows {ids}); last good checkpoint: {good}; "
    assert str(caught.value).startswith(start)
    assert checkpoint.exists() == bool(kept)
    if kept:
        assert torch.load(checkpoint, weights_only=True)["global_step"] == kept
    assert not here.train.exists()
    assert list(_runs().values()) == ["FAILED"]


@pytest.mark.parametrize(
    "asked",
    [["framework=dmt"], ["framework=xpl"], ["framework=self_supervised", "objective=slavc"]],
    ids=["teachers", "peers", "momentum encoders"],
)
def test_a_skipped_step_changes_nothing_and_is_counted(
    asked: list[str], layout: _Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, statistics, teachers, peers' labels and the optimizer's moments are what they were.

    The step's loss is in no mean.
    """
    seen: dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    at_start: dict[str, torch.Tensor] = {}
    step, end = SemiModule.training_step, NonFiniteGuard.on_train_batch_end

    def state(module: SemiModule) -> dict[str, torch.Tensor]:
        assert isinstance(module.framework, nn.Module)
        tensors = {
            name: value.clone() for name, value in module.framework.state_dict().items() if isinstance(value, Tensor)
        }
        if isinstance(module.framework, XPL):
            rows = np.arange(24 + 6 + 6 + 4 + 3 + 5)  # of the project's data set
            tensors["labels"] = torch.from_numpy(module.framework.labels.read(rows, (8, 8))).nan_to_num(-1)
            tensors["reliability"] = torch.from_numpy(module.framework.labels.reliability)
        moments = module.trainer.optimizers[0].state_dict()["state"]
        return tensors | {f"{k}.{name}": m.clone() for k, entry in moments.items() for name, m in entry.items()}

    def at_its_start(self: SemiModule, rows: TrainingRows, batch_idx: int) -> torch.Tensor:
        at_start.clear()
        at_start.update(state(self))
        return step(self, rows, batch_idx)

    def at_its_end(
        self: NonFiniteGuard, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        end(self, trainer, module, *args)
        assert isinstance(module, SemiModule)
        seen[module.step] = dict(at_start), state(module)

    monkeypatch.setattr(SemiModule, "training_step", at_its_start)
    monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", at_its_end)
    with _spoilt_at(1, 2):
        train([*asked, "trainer.non_finite=skip", "trainer.epochs=1", "trainer.gradient_clip=0", "root=outputs"])
    for number, (before, after) in seen.items():
        kept = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
        if number in (1, 2):
            assert kept == before.keys() == after.keys()
        else:
            assert len(kept) < len(after) / 2
    (line,) = csv.DictReader((layout(*asked).train / "curves.csv").read_text().splitlines())
    assert float(line["train/skipped"]) == 2
    assert 0 < float(line["train/loss"]) < 100


def test_a_loss_that_explodes_ends_the_training(layout: _Where) -> None:
    """It is finite still; the step, its rows and the way out are named."""
    with pytest.raises(TrainingError, match=facts("trainer.loss_limit step 0 rows none")):
        train(["trainer.loss_limit=0.001"])
    assert not layout().train.exists()


def test_an_epoch_without_a_finite_step_ends_the_training(layout: _Where) -> None:
    """Skipping has an end where there is nothing else."""
    with _spoilt_at(3, 4, 5), pytest.raises(TrainingError, match=facts("epoch step 5")):
        train(["trainer.non_finite=skip"])
    assert not layout().train.exists()


@pytest.mark.slow
def test_what_stopped_goes_on_with_skip_as_if_it_had_been_asked_for_at_once(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """From the last good checkpoint; and where every step is finite both are the same to the bit."""
    caplog.set_level(logging.INFO)
    skip, here = "trainer.non_finite=skip", layout()
    with _spoilt_at(3):
        with pytest.raises(TrainingError, match=facts("finite step 3")):
            train()
        train([skip])
        assert "continuing from" in caplog.text
        resumed = _outcome(here)[0]
        shutil.rmtree(here.train)
        train([skip])
    assert _outcome(here)[0] == resumed
    assert undisturbed("framework=dmt", skip)[0] == undisturbed("framework=dmt")[0] != resumed


_ELSEWHERE = np.array([[0, 0, 0.25, 1]], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_truth_of_unlabeled_rows_decides_nothing(
    framework: str, layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], draw_boxes: _DrawBoxes
) -> None:
    """Other boxes on every unlabeled row give the same weights; pseudo-labels' quality, which they tell, changes."""
    asked = [f"framework={framework}"]
    here = layout(*asked)
    draw_boxes(PreparedData.open(here.prepared), Split.load(here.split).unlabeled, _ELSEWHERE)
    train(asked)
    weights, curves = undisturbed(*asked)
    found, written = _outcome(here)
    assert found == weights
    before, after = (list(csv.DictReader(text.splitlines())) for text in (curves, written))
    told = {key for a, b in zip(before, after, strict=True) for key in a if a[key] != b[key]}
    if make_framework(compose(asked), 6).needs_weak_view:
        assert told == {"pseudo/precision", "pseudo/recall", "pseudo/iou"}
    else:
        assert not told


@pytest.mark.slow
def test_the_truth_of_labeled_rows_decides(
    layout: _Where, undisturbed: Callable[..., tuple[bytes, str]], draw_boxes: _DrawBoxes
) -> None:
    """The same change on one labeled row gives other weights."""
    here = layout()
    draw_boxes(PreparedData.open(here.prepared), Split.load(here.split).labeled[:1], _ELSEWHERE)
    train()
    assert _outcome(here)[0] != undisturbed("framework=dmt")[0]


@pytest.mark.slow
def test_every_epoch_tells_what_the_issue_asks_for(layout: _Where) -> None:
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
    recorded = _points(RunRecord.load(layout().train).run_id)
    assert set(last) - {"epoch"} <= set(recorded)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (["framework.dmt.warmup_steps=3"], "framework.dmt.warmup_steps"),
        (["objective=fnac", "objective.fnac.warmup_steps=4"], "objective.fnac.warmup_steps"),
    ],
)
def test_a_method_that_would_never_start_is_refused(asked: list[str], key: str, layout: _Where) -> None:
    """A warm-up as long as the training names its key and the training's 3 steps."""
    with pytest.raises(TrainingError, match=facts(key, "3 steps")):
        train(["trainer.epochs=1", *asked])
    assert not layout("trainer.epochs=1", *asked).train.exists()
    assert not _runs()


@pytest.mark.slow
def test_a_share_of_the_training_is_that_many_steps(undisturbed: Callable[..., tuple[bytes, str]]) -> None:
    """Warm-up, pacing and half-life as shares of 6 steps are the same training as in steps; other shares are not."""
    xpl = ("framework=xpl", "framework.xpl.warmup_steps={}", "framework.xpl.pacing.length={}")
    dmt = ("framework=dmt", "framework.dmt.warmup_steps={}", "framework.dmt.ema_half_life={}")
    for keys in (xpl, dmt):
        shares, steps, others = (tuple(key.format(n) for key in keys) for n in ("0.34", "2", "0.5"))
        assert undisturbed(*shares)[0] == undisturbed(*steps)[0] != undisturbed(*others)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_training_with_a_sentence_and_its_state_is_kept(
    sent: str, code: int, project: Path, layout: _Where
) -> None:
    """The code is the shell's, the sentence names the checkpoint, written by time here, and the run is KILLED."""
    script = (
        "import os, signal, sys\n"
        "from avsl.cli import main\n"
        "from avsl.data.loading import StepLoader\n"
        "rows = StepLoader.rows\n"
        "def stopped(self, number):\n"
        "    if number == 2:\n"
        f"        os.kill(os.getpid(), signal.{sent})\n"
        "    return rows(self, number)\n"
        "StepLoader.rows = stopped\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "sys.exit(main(['train', 'trainer.checkpoint_every=100', 'trainer.checkpoint_every_s=0', 'root=outputs']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    checkpoint = layout().state / "last.ckpt"
    assert says(done.stderr, checkpoint, "2 steps")
    assert "Traceback" not in done.stderr
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    assert list(_runs().values()) == ["KILLED"]


VGGISH = "model.second.audio={kind: vggish, channels: [4, 4, 4, 4], hidden: 8}"


WAVEFORM = "model.second.audio={kind: waveform, channels: [4, 4, 4]}"


SSPL = ["objective=sspl", "objective.sspl.hidden=16", "objective.sspl.bottleneck=8"]


@pytest.mark.parametrize("asked", [[VGGISH, *SSPL], [WAVEFORM], [WAVEFORM, "trainer.cache_features=false"]])
def test_dmt_trains_students_that_hear_differently(asked: list[str], layout: Callable[..., Layout]) -> None:
    """What is exported predicts from raw sounds what it says with what was cached in training."""
    asked = ["framework=dmt", *asked]
    here = layout(*asked)
    train(asked)
    model, description = load_exported(here.train / "model")
    first, second = description.members
    assert first.audio.kind == "spectrogram"
    assert second.audio.kind in ("vggish", "waveform")
    config = compose(asked)
    data, _ = load_data(here)
    rows = np.arange(5)
    read = make_reader(config, description.members, data, rows)(rows, masks=False)
    with torch.no_grad():
        heard = model(plain_view(read))
    predicted = model.predict(torch.from_numpy(data.frames(rows)), torch.from_numpy(data.waveforms(rows)))
    assert heard.isfinite().all()
    torch.testing.assert_close(predicted, heard, rtol=1e-4, atol=1e-5)
