"""The path of docs/labels.md, from a folder of videos without boxes to a registered model, as it is printed there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import mlflow
import pytest
import yaml
from tests.fixtures.annotation_tools import export_label_studio

from avsl.cli import main
from avsl.data.annotation_files import as_boxes
from avsl.labels.tasks import read_frames
from avsl.labels.tools.task import Task

_DOCS = Path(__file__).parents[2] / "docs" / "labels.md"
_NETWORK = {"backbone": "resnet10t", "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 8}}


def _annotate(path: Path) -> Path:
    """Play the annotator: a box around the same region of every frame, exported as Label Studio does."""
    tasks = [Task(f.id, f.file, f.width, f.height, as_boxes([])) for f in read_frames(Path("labels")).values()]
    return export_label_studio(path, tasks, {task.id: [(10.0, 10.0, 61.0, 50.0)] for task in tasks})


@pytest.mark.slow
def test_the_documented_path_leads_to_a_registered_model(
    clips: Path,
    settings: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command runs as printed, and each command on labels prints the one that the documentation has next."""
    text = _DOCS.read_text()
    params = yaml.safe_load(next(re.finditer(r"^```yaml\n(.*?)^```", text, re.M | re.S))[1])
    commands = next(re.finditer(r"^```\n(avsl data check.*?)^```", text, re.M | re.S))[1].splitlines()
    shares = {key.rpartition(".")[2]: yaml.safe_load(value) for key, _, value in (t.partition("=") for t in settings)}
    params["data"]["folder"] |= {k: shares[k] for k in ("test_share", "validation_share", "seed")}
    params["data"]["folder"] |= {"image_size": 32, "duration_s": 0.5}
    params["model"] = {"name": "small"}
    params["trainer"] = {"name": "default", "epochs": 2, "batch_size": 8, "labeled_batch_size": 2}
    params["framework"] = {"name": "dmt", "dmt": {"warmup_steps": 1, "delta": 0.05, "tau": 0.0}}
    params["tracking"] = {"system_metrics": False}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    model = {"name": "small", "dim": 8, "image": _NETWORK | {"stages": [1]}}
    model["audio"] = _NETWORK | {"front_end": {"hop_length": 320, "n_mels": 32}}
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/small.yaml").write_text(yaml.safe_dump(model))

    promised = ""
    for command in commands:
        if promised:
            assert command.startswith(promised)
        exported = _annotate(tmp_path / "export.json") if "EXPORTED_FILE" in command else Path()
        typed = command.replace("EXPORTED_FILE", str(exported)).replace("VIDEO", str(clips / "videoa_0_1.mp4"))
        code = main(shlex.split(typed)[1:])
        shown = capfd.readouterr()
        assert code == 0, f"{command}\n{shown.err}"
        found = re.search(r"^next: (.*)$", shown.out, re.M)
        promised = "" if found is None else re.sub(r" --budget.*", "", found[1])
    assert Path("labels/round-02.csv").is_file()
    assert Path("outputs/folder/labels/review.html").is_file()
    assert Path("outputs/folder/labels/forecast.png").is_file()
    assert Path("localized/videoa_0_1.json").is_file()
    # What `mlflow models serve` loads.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/outputs/mlflow/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/avsl-folder-ratio-1.0@champion")
    (served,) = model.predict(model.input_example)
    assert 0 < served["threshold"] < 1
    # The report after the forecast.
    assert main(["report"]) == 0
    page = (tmp_path / "outputs/folder/report/report.html").read_text()
    assert "How many labels are enough" in page
    assert "avsl labels suggest --budget" in page
