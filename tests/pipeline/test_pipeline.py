"""The main job by the command line, in one process: from nothing to a registered model that localizes in a video."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from tests.fixtures.messages import says

from avsl.cli import main
from avsl.config.compose import compose
from avsl.data.prepared.reader import PreparedData
from avsl.frameworks import FRAMEWORKS
from avsl.paths import Layout

_PROJECT = Path(__file__).parents[2]
_SMALL = "{channels: [8, 8, 8, 8], stem_width: 8}"
# Overrides as a person types them; params.yaml and conf/ are the project's own.
_TINY = [
    "data=synthetic",
    "split.label_ratio=0.25",
    *(f"data.synthetic.{key}=0" for key in ("n_small", "n_duet", "n_unheard")),
    *("data.synthetic.image_size=32", "data.synthetic.duration_s=0.25", "data.synthetic.n_train=16"),
    *("data.synthetic.n_validation=4", "data.synthetic.n_test=4"),
    *("data.synthetic.n_offscreen=2", "data.synthetic.n_swap=4"),
    *(f"++model.{part}.backbone=resnet10t" for part in ("image", "audio")),
    *(f"++model.{part}.backbone_args={_SMALL}" for part in ("image", "audio")),
    *("model.dim=8", "++model.image.stages=[1]"),
    *("trainer.epochs=1", "trainer.batch_size=8", "trainer.labeled_batch_size=4", "trainer.precision=32-true"),
    *("evaluate.gallery=2", "tracking.system_metrics=false"),
]


_UNWARMED = ("supervised", "self_supervised")


def _method(framework: str) -> list[str]:
    """Its choice; of two steps the second is on pseudo-labels too, as params.yaml's warm-ups would outlast both."""
    warm = [] if framework in _UNWARMED else [f"framework.{framework}.warmup_steps=0.5"]
    return [f"framework={framework}", *warm]


def _video(path: Path) -> None:
    """Two seconds of a moving square and a tone."""
    with av.open(path, "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for k in range(10):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[10:30, 3 * k : 3 * k + 20] = 200
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        tone = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))


@pytest.mark.slow
def test_from_nothing_to_boxes_in_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of the main job ends well and leaves what the next one needs, for every framework."""
    monkeypatch.chdir(_PROJECT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tiny = [*_TINY, f"root={tmp_path}"]
    for framework in FRAMEWORKS:
        assert main(["run", *tiny, *_method(framework)]) == 0
    assert main(["register", *tiny]) == 0
    assert main(["report", *tiny]) == 0
    layout = Layout.of(compose(tiny))
    summary = json.loads((layout.report / "summary.json").read_text())
    assert set(summary["cells"]) == {f"{name}-ezvsl@0.25" for name in FRAMEWORKS}
    decision = json.loads(layout.registered.read_text())
    assert (decision["model"], decision["action"]) == ("avsl-synthetic-ratio-0.25", "promoted")

    _video(tmp_path / "tone.mp4")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    capsys.readouterr()
    target = tmp_path / "localized"
    assert main(["localize", str(tmp_path / "tone.mp4"), "--ratio", "0.25", "--out", str(target)]) == 0
    written = [target / f"tone.{kind}" for kind in ("json", "png", "mp4")]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(map(str, written))
    assert all(path.stat().st_size for path in written)
    assert json.loads((target / "tone.json").read_text())
    assert (target / "tone.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_folder_in_the_layout_of_vggss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures and sounds on disk, a test list, unlabeled clips, JPEG shards: from the folder to scores, n of N told.

    With so few clips that none is left for validation, it is one sentence.
    """
    monkeypatch.chdir(_PROJECT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "set"
    (root / "frames").mkdir(parents=True)
    (root / "audio").mkdir()
    rng = np.random.default_rng(0)
    for k in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / "frames" / f"c{k:02d}.jpg")
        tone = 0.5 * np.sin(2 * np.pi * (300 + 100 * k) * np.arange(8000) / 16000)
        soundfile.write(root / "audio" / f"c{k:02d}.ogg", tone, 16000)
    rows = [{"file": f"c{k:02d}", "class": f"k{k % 2}", "bbox": [[0.2, 0.2, 0.7, 0.8]]} for k in range(16)]
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "test.csv").write_text("".join(f"c{k:02d}\n" for k in range(6)))
    (root / "frames" / "c05.jpg").unlink()
    model = [override for override in _TINY if "model." in override or "trainer." in override]
    asked = ["data=vggss", f"data.vggss.root={root}", "data.vggss.test_list=test.csv", "data.vggss.image_size=32"]
    asked += ["data.vggss.duration_s=0.25", "data.vggss.frames=jpeg", "data.vggss.validation_share=0.3"]
    asked += ["split.label_ratio=0.25", "evaluate.gallery=2", "tracking.system_metrics=false", *_method("dmt"), *model]
    assert main(["run", *asked, f"root={tmp_path / 'outputs'}"]) == 0
    layout = Layout.of(compose([*asked, f"root={tmp_path / 'outputs'}"]))
    prepared = PreparedData.open(layout.prepared)
    assert prepared.manifest.counts["test"] == 5
    assert prepared.manifest.expected["test"] == 6
    assert prepared.manifest.counts["train"] + prepared.manifest.counts["validation"] == 18
    figures = json.loads((layout.evaluation / "metrics.json").read_text())
    assert figures["test"]["n"] == 5
    capsys.readouterr()
    assert main(["run", *asked, "data.vggss.validation_share=0", f"root={tmp_path / 'bare'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert says(error, "validation data.vggss")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["vggsound_duet", "music"])
def test_sets_of_duets_go_from_the_folder_to_the_report(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sources at once in the main test part: its multi-source figures, the champion and the page are there."""
    monkeypatch.chdir(_PROJECT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "set"
    (root / "frames").mkdir(parents=True)
    (root / "audio").mkdir()
    rng = np.random.default_rng(0)
    names = [f"video{k:06d}_000_000" for k in range(24)]
    for k, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(root / "frames" / f"{name}.jpg")
        tone = 0.5 * np.sin(2 * np.pi * (300 + 100 * k) * np.arange(8000) / 16000)
        soundfile.write(root / "audio" / f"{name if data != 'music' else name[:11]}.ogg", tone, 16000)
    if data == "music":
        boxes = {"bbox_src1": [0.1, 0.1, 0.4, 0.8], "bbox_src2": [0.6, 0.1, 0.3, 0.8]}
        rows: list[dict[str, Any]] = [
            {"file": name, "class_src1": "cello", "class_src2": f"k{k % 2}"} | boxes for k, name in enumerate(names)
        ]
        (root / "music_duet.json").write_text(json.dumps(rows))
        asked = ["data.music.subset=duet"]
    else:
        rows = [{"file": name, "class": f"k{k % 2}", "bbox": [[0.2, 0.2, 0.7, 0.8]]} for k, name in enumerate(names)]
        (root / "vggss.json").write_text(json.dumps(rows))
        pairs = [f"{one},k,{other},k\n" for one in names for other in names[:6] if one != other]
        (root / "vggsound_duet_test.csv").write_text("".join(pairs))
        asked = []
    asked += [f"data={data}", f"data.{data}.root={root}", f"data.{data}.image_size=32", f"data.{data}.duration_s=0.25"]
    asked += [f"data.{data}.test_share=0.4", f"data.{data}.validation_share=0.4", f"root={tmp_path / 'outputs'}"]
    asked += ["framework=supervised", "split.label_ratio=0.25", "evaluate.gallery=2", "tracking.system_metrics=false"]
    asked += [override for override in _TINY if "model." in override or "trainer." in override]
    for step in ("run", "register", "report"):
        assert main([step, *asked]) == 0
    layout = Layout.of(compose(asked))
    figures = json.loads((layout.evaluation / "metrics.json").read_text())
    assert [key for key in figures if key.startswith("test")] == ["test"]
    assert figures["test"]["n"] == PreparedData.open(layout.prepared).manifest.expected["test"] > 1
    assert {"ciou", "ciou_shuffled", "pixel_ap", "piap_as_published", "by_size"} <= set(figures["test"])
    assert json.loads(layout.registered.read_text())["action"] == "promoted"
    summary = json.loads((layout.report / "summary.json").read_text())
    (cell,) = summary["cells"].values()
    assert cell["ciou"] == pytest.approx(figures["test"]["ciou"])
    assert "piap_as_published" in (layout.report / "subsets.csv").read_text().splitlines()[0]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """What `avsl config` prints in the project, as plain values."""
    monkeypatch.chdir(_PROJECT)

    def config(*overrides: str) -> object:
        assert main(["config", *overrides]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    return config


def _stated(path: str, value: Any) -> list[str]:
    """A section as overrides, one for each value."""
    if isinstance(value, dict):
        return [override for key, inner in value.items() for override in _stated(f"{path}.{key}", inner)]
    return [f"{path}={value}"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_stage_and_a_person_get_the_same_configuration(framework: str, printed: Callable[..., object]) -> None:
    """What dvc.yaml's command line composes to is what a person gets who states the defaults in full."""
    params = yaml.safe_load((_PROJECT / "params.yaml").read_text())
    stage = [f"framework={framework}", "split.label_ratio=0.1"]
    stated = [f"{group}={params[group]['name']}" for group in ("data", "model", "objective", "trainer")]
    stated += _stated(f"framework.{framework}", params["framework"].get(framework, {}))
    assert printed(*stage) == printed(*reversed(stated), *reversed(stage))
