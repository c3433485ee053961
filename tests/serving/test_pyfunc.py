"""The registered model as its users load it, with real (untrained) weights."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.serving.packaging import model_code
from avsl.serving.predictor import Predictor
from avsl.tracking.registry import Candidate, hash_model, model_folder, promote
from avsl.tracking.runs import RunTags, Store, TrackingConfig, open_store, start_or_resume_run

pytestmark = pytest.mark.slow

_URI = "models:/avsl-synthetic-ratio-0.03@champion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported pair of tiny localisers."""
    torch.manual_seed(0)
    part = {"backbone": "test_resnet"}
    members = [LocalizerConfig.read({"dim": 8, "image": part, "audio": part}, "model") for _ in range(2)]
    target = tmp_path_factory.mktemp("run") / "model"
    description = ExportedModel(members=members, image_size=64, sample_rate=16000, duration_s=1.0, threshold=0.1)
    save_exported(target, LocalizerEnsemble([Localizer(member) for member in members]), description)
    return target


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose champion at 3 % labels is that pair."""
    root = tmp_path_factory.mktemp("store")
    store = open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", system_metrics=False), root)
    tags = RunTags("dmt", "ezvsl", 0.03, 0, "d", "s", "c", "train")
    with start_or_resume_run(store, "synthetic", "dmt", tags, {}) as run:
        pass
    candidate = Candidate(
        run.run_id, "dmt", 0.5, "ciou50", "s", "synthetic", 0.03, folder, hash_model(folder), {"ciou50": 0.4}
    )
    assert promote(store, [candidate], "synthetic", 0.03, "s", "ciou50", model_code()).action == "promoted"
    return store


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Any]:
    """The champion, loaded through MLflow."""
    before = mlflow.get_tracking_uri(), list(sys.path), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)
    yield mlflow.pyfunc.load_model(_URI)
    mlflow.set_tracking_uri(before[0])
    sys.path[:] = before[1]
    if before[2] is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _text(write: Any) -> str:
    buffer = io.BytesIO()
    write(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


_RNG = np.random.default_rng(0)
_FRAME = _RNG.integers(0, 256, (40, 60, 3), np.uint8)
_SOUND = (0.3 * _RNG.standard_normal(16000)).clip(-1, 1).astype(np.float32)
_PNG = _text(lambda buffer: Image.fromarray(_FRAME).save(buffer, "PNG"))
_WAV = _text(lambda buffer: soundfile.write(buffer, _SOUND, 16000, format="WAV", subtype="FLOAT"))


def test_loads_in_a_fresh_process_without_pickle_and_without_the_package(store: Store, tmp_path: Path) -> None:
    """A process with pickle off runs the code that travels with the model."""
    (tmp_path / "rows.json").write_text(json.dumps([{"frame": _PNG, "audio": _WAV}]))
    script = (
        "import json, sys, mlflow\n"
        "rows = json.load(open('rows.json'))\n"
        f"answer = mlflow.pyfunc.load_model('{_URI}').predict(rows)\n"
        "import avsl\n"
        "json.dump({'answer': answer, 'code': avsl.__file__, 'lightning': 'lightning' in sys.modules},"
        " open('answer.json', 'w'))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "answer.json").read_text())
    (row,) = written["answer"]
    assert np.asarray(row["map"]).shape == (40, 60)
    assert row["threshold"] == 0.1
    # The code that travels with the model is what runs, and inference needs no trainer.
    assert Path(written["code"]).parts[-3:] == ("code", "avsl", "__init__.py")
    assert not written["lightning"]


def test_every_form_of_input_gives_the_predictors_answer(served: Any, folder: Path) -> None:
    """Base64, lists and arrays, in tables and records, give what the predictor gives."""
    (expected,) = Predictor.load(folder).predict([_FRAME], [_SOUND])
    assert 0 <= expected.map.min() < expected.map.max() <= 1
    text = {"frame": _PNG, "audio": _WAV}
    numbers = {"frame": _FRAME.tolist(), "audio": _SOUND.tolist()}
    arrays = {"frame": _FRAME, "audio": _SOUND}
    for given in (pd.DataFrame([text, numbers, arrays]), [text, numbers], [numbers], pd.DataFrame([arrays])):
        for row in served.predict(given):
            np.testing.assert_allclose(row["map"], expected.map, atol=1e-5)
            np.testing.assert_allclose(row["boxes"], [list(box) for box in expected.boxes], atol=1e-5)
            json.dumps(row)


def test_sound_of_another_rate_and_two_channels_is_converted(served: Any) -> None:
    """44.1 kHz stereo is heard as the same tone at 16 kHz."""
    time = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    other = _text(lambda buffer: soundfile.write(buffer, np.stack([tone, tone], 1), 44100, format="FLAC"))
    same = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).tolist()
    first, second = served.predict(pd.DataFrame([{"frame": _PNG, "audio": other}, {"frame": _PNG, "audio": same}]))
    np.testing.assert_allclose(first["map"], second["map"], atol=0.02)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frame": "%%%"}, "row 1: 'frame' is not base64"),
        ({"frame": base64.b64encode(b"no picture").decode()}, "row 1: 'frame' is not a readable PNG or JPEG"),
        ({"frame": _PNG[: len(_PNG) // 8 * 4]}, "row 1: 'frame' is not a readable PNG or JPEG"),
        ({"frame": [[[300, 0, 0]]]}, "row 1: 'frame' holds values that are not whole numbers in 0..255"),
        ({"frame": [[0, 0], [0]]}, "row 1: 'frame' is neither base64 text nor an array of numbers"),
        ({"frame": [[0, 0], [0, 0]]}, "frame 1 is uint8 of shape"),
        ({"audio": base64.b64encode(b"no sound").decode()}, "row 1: 'audio' is not a readable wav"),
        ({"audio": [0.1, float("nan")]}, "waveform 1 holds NaN"),
        ({"audio": []}, "waveform 1 is empty"),
        ({"audio": {"rate": 16000}}, "row 1: 'audio' is neither base64 text nor an array of numbers"),
    ],
)
def test_bad_rows_are_named(served: Any, change: dict[str, Any], complaint: str) -> None:
    """One sentence tells row and column."""
    good = {"frame": _PNG, "audio": _WAV}
    with pytest.raises(ValueError, match=complaint) as error:
        served.predict(pd.DataFrame([good, good | change]))
    assert "\n" not in str(error.value)


def test_missing_column_is_named(served: Any) -> None:
    """The signature refuses a table without sound."""
    with pytest.raises(mlflow.MlflowException, match="audio"):
        served.predict(pd.DataFrame([{"frame": _PNG}]))


def test_what_travels_with_the_model(served: Any, store: Store, folder: Path) -> None:
    """Weights, pinned requirements and a working example, and no pickle."""
    with model_folder(store, "models:/avsl-synthetic-ratio-0.03@champion") as (fetched, _):
        assert hash_model(fetched) == hash_model(folder)
    saved = Path(mlflow.artifacts.download_artifacts(_URI, tracking_uri=store.uri))
    assert not [path for path in saved.rglob("*") if path.suffix in {".pkl", ".pt", ".pyc"}]
    requirements = (saved / "requirements.txt").read_text().splitlines()
    assert f"torch=={version('torch').split('+')[0]}" in requirements
    assert all("==" in line and "+" not in line for line in requirements)
    # The example is a real input.
    (row,) = served.predict(served.input_example)
    assert np.asarray(row["map"]).shape == (48, 64)
