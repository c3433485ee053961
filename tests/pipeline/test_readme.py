"""The Python of the README and of the pages on models runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avsl.inference.export import export_model
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.models.hashing import hash_model
from avsl.registry.packaging import model_code
from avsl.registry.promotion import promote
from avsl.registry.rules import Candidate
from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import TrackingConfig, open_store

pytestmark = pytest.mark.slow

_PROJECT = Path(__file__).parents[2]
_PAGES = ("README.md", "docs/models.md")
_BLOCKS = [
    block
    for page in _PAGES
    for block in re.findall(r"^```python\n(.*?)^```", (_PROJECT / page).read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny: LocalizerConfig) -> Path:
    """A project after `make repro`, as far as the README's Python goes, with clip.mp4 and the exported model.onnx."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copyfile(_PROJECT / "params.yaml", folder / "params.yaml")
    root = folder / "outputs"
    config = TrackingConfig(uri=f"sqlite:///{root}/mlflow/mlflow.db", system_metrics=False)
    store = open_store(config, root)
    with start_or_resume_run(store, "synthetic", "", RunTags("dmt", "ezvsl", 0.03, 0, "d", "s", "c", "t"), {}) as run:
        pass
    exported = folder / "exported"
    torch.manual_seed(0)
    description = ExportedModel(members=[tiny], image_size=32, sample_rate=16000, duration_s=0.5, threshold=0.3)
    save_exported(exported, LocalizerEnsemble([Localizer(tiny)]), description)
    candidate = Candidate(run.run_id, "dmt", "ezvsl", 0.5, "c", "s", "synthetic", 0.03, exported, hash_model(exported))
    promote(store, [candidate], "synthetic", 0.03, "s", "c", model_code())
    export_model(exported, "onnx", folder / "model.onnx", "exported")
    rng = np.random.default_rng(0)
    with av.open(folder / "clip.mp4", "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(15):
            picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for start in range(0, 48000, 1000):
            noise = rng.normal(0, 0.1, (1, 1000)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, start
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return folder


@pytest.mark.parametrize("number", range(len(_BLOCKS)))
def test_python_in_the_readme_runs(number: int, project: Path) -> None:
    """Each block, on its own, in the project's folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKS[number]],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
