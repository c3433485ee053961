"""Training: what decides the weights, what is refused, and how a signal ends it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tests.fixtures.messages import facts, says
from tests.fixtures.trainings import Where, read_outcome, run_states

from avsl.build import make_framework, make_reader
from avsl.config.compose import compose
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split
from avsl.data.transforms import plain_view
from avsl.frameworks import FRAMEWORKS
from avsl.models import load_exported
from avsl.paths import Layout
from avsl.schema import ConfigError
from avsl.stages.prepare import load_data
from avsl.stages.train import train
from avsl.training.errors import TrainingError


@pytest.mark.slow
def test_without_labels_it_does_not_matter_which_rows_have_them(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]]
) -> None:
    """Self-supervised learning draws all rows alike: half of them labeled in place of a quarter change no weight."""
    asked = ["framework=self_supervised", "split.label_ratio=0.5"]
    assert undisturbed(*asked)[0] == undisturbed("framework=self_supervised")[0]


def test_a_second_training_on_the_same_state_is_refused(layout: Where) -> None:
    """Two processes never share a checkpoint: the second one names the folder and leaves no run."""
    state = layout().state
    state.mkdir(parents=True)
    with FileLock(state / "last.lock"), pytest.raises(TrainingError, match=facts(state)):
        train()
    assert not run_states()


def test_a_missing_accelerator_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the key and what is allowed; no run is left."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=facts("trainer.accelerator gpu cpu")):
        train(["trainer.accelerator=gpu"])
    assert not run_states()


_DrawBoxes = Callable[[PreparedData, Collection[str], NDArray[np.float32]], None]


_ELSEWHERE = np.array([[0, 0, 0.25, 1]], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_truth_of_unlabeled_rows_decides_nothing(
    framework: str, layout: Where, undisturbed: Callable[..., tuple[bytes, str]], draw_boxes: _DrawBoxes
) -> None:
    """Other boxes on every unlabeled row give the same weights; pseudo-labels' quality, which they tell, changes."""
    asked = [f"framework={framework}"]
    here = layout(*asked)
    draw_boxes(PreparedData.open(here.prepared), Split.load(here.split).unlabeled, _ELSEWHERE)
    train(asked)
    weights, curves = undisturbed(*asked)
    found, written = read_outcome(here)
    assert found == weights
    before, after = (list(csv.DictReader(text.splitlines())) for text in (curves, written))
    told = {key for a, b in zip(before, after, strict=True) for key in a if a[key] != b[key]}
    if make_framework(compose(asked), 6).needs_weak_view:
        assert told == {"pseudo/precision", "pseudo/recall", "pseudo/iou"}
    else:
        assert not told


@pytest.mark.slow
def test_the_truth_of_labeled_rows_decides(
    layout: Where, undisturbed: Callable[..., tuple[bytes, str]], draw_boxes: _DrawBoxes
) -> None:
    """The same change on one labeled row gives other weights."""
    here = layout()
    draw_boxes(PreparedData.open(here.prepared), Split.load(here.split).labeled[:1], _ELSEWHERE)
    train()
    assert read_outcome(here)[0] != undisturbed("framework=dmt")[0]


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (["framework.dmt.warmup_steps=3"], "framework.dmt.warmup_steps"),
        (["objective=fnac", "objective.fnac.warmup_steps=4"], "objective.fnac.warmup_steps"),
    ],
)
def test_a_method_that_would_never_start_is_refused(asked: list[str], key: str, layout: Where) -> None:
    """A warm-up as long as the training names its key and the training's 3 steps."""
    with pytest.raises(TrainingError, match=facts(key, "3 steps")):
        train(["trainer.epochs=1", *asked])
    assert not layout("trainer.epochs=1", *asked).train.exists()
    assert not run_states()


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
    sent: str, code: int, project: Path, layout: Where
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
    assert list(run_states().values()) == ["KILLED"]


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
    read = make_reader(config, model.modules(), data, rows)(rows, masks=False)
    with torch.no_grad():
        heard = model(plain_view(read))
    predicted = model.predict(torch.from_numpy(data.frames(rows)), torch.from_numpy(data.waveforms(rows)))
    assert heard.isfinite().all()
    torch.testing.assert_close(predicted, heard, rtol=1e-4, atol=1e-5)
