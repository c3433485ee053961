"""The registered model as its users load it, with real (untrained) weights."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grimp
import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from tests.fixtures.messages import facts, says
from tests.fixtures.ports import find_free_port
from tests.fixtures.store import MakeCandidate

from avsl.inference.predictor import Predictor
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported
from avsl.models.hashing import hash_model
from avsl.registry.packaging import model_code
from avsl.registry.promotion import promote
from avsl.registry.versions import model_folder
from avsl.tracking.store import Store, TrackingConfig, open_store

pytestmark = pytest.mark.slow

_URI = "models:/avsl-synthetic-ratio-0.03@champion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported pair of tiny localizers."""
    torch.manual_seed(0)
    part = {"backbone": "test_resnet"}
    members = [LocalizerConfig.read({"dim": 8, "image": part, "audio": part}, "model") for _ in range(2)]
    target = tmp_path_factory.mktemp("run") / "model"
    description = ExportedModel(members=members, image_size=64, sample_rate=16000, duration_s=1.0, threshold=0.1)
    save_exported(target, LocalizerEnsemble([Localizer(member) for member in members]), description)
    return target


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory, make_candidate: MakeCandidate) -> Store:
    """A store whose champion at 3 % labels is that pair."""
    root = tmp_path_factory.mktemp("store")
    store = open_store(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", system_metrics=False), root)
    candidate = make_candidate(store, folder)
    assert promote(store, [candidate], "synthetic", 0.03, "s1", "ciou50", model_code()).action == "promoted"
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
_SHORT_HEADER = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\2IHDR\0\0" + zlib.crc32(b"IHDR\0\0").to_bytes(4, "big")
).decode()


def _picture(kind: str, width: int) -> str:
    return _text(lambda buffer: Image.new("L", (width, 1)).save(buffer, kind))


def _flac(seconds: int, rate: int, channels: int = 1) -> str:
    silence = np.zeros((seconds * rate, channels), np.int16)
    return _text(lambda buffer: soundfile.write(buffer, silence, rate, format="FLAC"))


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
    assert np.asarray(row["map"]).shape == (2, 2)
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
            np.testing.assert_allclose(row["map"], expected.grid, atol=6e-5)
            np.testing.assert_allclose(row["boxes"], [list(box) for box in expected.boxes], atol=1e-5)
            json.dumps(row)


def test_maps_come_at_the_networks_own_size_or_the_frames_on_request(served: Any, folder: Path) -> None:
    """A frame's map is the interpolation of that grid; boxes stay those of the frame's map."""
    (expected,) = Predictor.load(folder).predict([_FRAME], [_SOUND])
    rows = [{"frame": _PNG, "audio": _WAV}]
    ((named,), (plain,), (coarse,)) = (
        served.predict(rows, params={"map_size": "grid"}),
        served.predict(rows, params={"map_size": "frame"}),
        served.predict(rows),
    )
    assert np.size(coarse["map"]) < 100 < np.size(plain["map"]) / 10
    np.testing.assert_allclose(coarse["map"], expected.grid, atol=6e-5)
    grid = torch.tensor(coarse["map"])[None, None]
    enlarged = torch.nn.functional.interpolate(grid, size=_FRAME.shape[:2], mode="bilinear")
    np.testing.assert_allclose(plain["map"], enlarged[0, 0], atol=2e-4)
    assert coarse["boxes"] == plain["boxes"]
    assert named == coarse


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
        ({"frame": "%%%"}, "1 'frame' base64"),
        ({"frame": base64.b64encode(b"no picture").decode()}, "1 'frame' PNG JPEG"),
        ({"frame": _PNG[: len(_PNG) // 8 * 4]}, "1 'frame' PNG JPEG"),
        ({"frame": _SHORT_HEADER}, "1 'frame' PNG JPEG"),
        ({"frame": [[[300, 0, 0]]]}, "1 'frame' 0..255"),
        ({"frame": [[0, 0], [0]]}, "1 'frame' base64 array"),
        ({"frame": [[0, 0], [0, 0]]}, "1 'frame' (2, 2)"),
        ({"frame": _picture("GIF", 4)}, "1 'frame' PNG JPEG"),
        (
            {"frame": _picture("PNG", 4194304)},
            "1 'frame' 4194304 4194304",
        ),
        ({"frame": np.zeros((2049, 2048, 3), np.uint8)}, "1 'frame' 2048 2049"),
        ({"audio": base64.b64encode(b"no sound").decode()}, "1 'audio' wav"),
        ({"audio": [0.1, float("nan")]}, "waveform 1 holds NaN"),
        ({"audio": []}, "1 empty"),
        ({"audio": {"rate": 16000}}, "1 'audio' base64 array"),
        ({"audio": np.zeros(60 * 16000 + 1)}, "1 'audio' 60"),
        ({"audio": _flac(61, 8000)}, "1 'audio' 60"),
        ({"audio": _flac(1, 2000)}, "1 'audio' 2000 4000 192000"),
    ],
)
def test_bad_rows_are_named(served: Any, change: dict[str, Any], complaint: str) -> None:
    """One sentence tells row and column."""
    good = {"frame": _PNG, "audio": _WAV}
    with pytest.raises(mlflow.MlflowException, match=facts(complaint)) as error:
        served.predict(pd.DataFrame([good, good | change]))
    assert "\n" not in str(error.value)
    assert error.value.error_code == "INVALID_PARAMETER_VALUE"  # 400 from the scoring server


def test_a_small_request_with_much_sound_in_it_is_refused(served: Any) -> None:
    """Many channels of silence take no room until they are decoded: of all rows together there are not too many."""
    rows = [{"frame": _PNG, "audio": _flac(24, 192000, 8)}] * 2
    assert len(rows[0]["audio"]) < 200_000
    with pytest.raises(mlflow.MlflowException, match=facts("1 'audio' 67108864")):
        served.predict(pd.DataFrame(rows))


def test_a_request_has_a_limit_of_rows_and_of_pixels_in_all(served: Any) -> None:
    """64 rows pass and 65 do not; frames count together."""
    row = {"frame": np.zeros((8, 8, 3), np.uint8), "audio": [0.1] * 4000}
    assert len(served.predict(pd.DataFrame([row] * 64))) == 64
    with pytest.raises(mlflow.MlflowException, match=facts("65 64")):
        served.predict(pd.DataFrame([row] * 65))
    large = {"frame": np.zeros((1025, 2048, 3), np.uint8), "audio": [0.1] * 4000}
    assert np.shape(served.predict(pd.DataFrame([large]), params={"map_size": "frame"})[0]["map"]) == (1025, 2048)
    with pytest.raises(mlflow.MlflowException, match=facts("1 'frame' 2048 1025")):
        served.predict(pd.DataFrame([large, large]))


def _ask(url: str, body: bytes) -> tuple[int, Any]:
    request = Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` of the champion, as a person starts it away from the project."""
    port = find_free_port()
    folder = tmp_path_factory.mktemp("served")
    binaries = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(binaries / "mlflow"), "models", "serve", "-m", _URI, "--env-manager", "local", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                told = (folder / "log").read_text()
                assert process.poll() is None, told
                assert time.monotonic() < deadline, told
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.mark.parametrize("form", ["dataframe_records", "inputs", "instances"])
def test_the_scoring_server_answers_with_map_boxes_and_confidence(server: str, folder: Path, form: str) -> None:
    """What MLflow serves is what the predictor finds, for base64 and for numbers in every form that takes rows."""
    (expected,) = Predictor.load(folder).predict([_FRAME], [_SOUND])
    text = {"frame": _PNG, "audio": _WAV}
    numbers = {"frame": _FRAME.tolist(), "audio": _SOUND.tolist()}
    for rows in ([text, text], [numbers]):
        status, answer = _ask(server, json.dumps({form: rows}).encode())
        assert status == 200
        assert len(answer["predictions"]) == len(rows)
        for row in answer["predictions"]:
            np.testing.assert_allclose(row["map"], expected.grid, atol=6e-5)
            np.testing.assert_allclose(row["boxes"], [list(box) for box in expected.boxes], atol=1e-5)
            assert row["threshold"] == 0.1
    status, answer = _ask(server, json.dumps({form: [text], "params": {"map_size": "grid"}}).encode())
    assert status == 200
    np.testing.assert_allclose(answer["predictions"][0]["map"], expected.grid, atol=6e-5)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (
            {"inputs": [{"frame": _PNG, "audio": _WAV}], "params": {"map_size": "huge"}},
            "'map_size' 'huge' grid frame",
        ),
        ({"inputs": [{"frame": _PNG, "audio": _WAV}], "params": {"map_size": 3}}, "map_size"),
        ({"dataframe_records": [{"frame": "%%%", "audio": _WAV}]}, "0 'frame' base64"),
        ({"dataframe_records": [{"frame": _PNG, "audio": "AAAA"}]}, "0 'audio' wav"),
        ({"dataframe_records": [{"frame": _picture("PNG", 4194305), "audio": _WAV}]}, "4194304"),
        ({"dataframe_records": [{"frame": _PNG, "audio": _flac(61, 8000)}]}, "'audio' 60"),
        ({"dataframe_records": [{"frame": _PNG, "audio": _WAV}] * 65}, "65 64"),
        ({"dataframe_records": [{"frame": _PNG}]}, "['audio']"),
        ({"dataframe_records": []}, "inputs"),
        ({"rows": [{"frame": _PNG, "audio": _WAV}]}, "input"),
        ("no mapping", "input"),
    ],
)
def test_the_scoring_server_refuses_bad_input_with_400_and_the_reason(server: str, body: Any, complaint: str) -> None:
    """The reason is in the answer, no traceback is, and the server goes on."""
    status, answer = _ask(server, json.dumps(body).encode())
    assert status == 400
    assert says(answer["message"], complaint)
    assert "stack_trace" not in answer
    assert _ask(server, json.dumps({"inputs": [{"frame": _PNG, "audio": _WAV}]}).encode())[0] == 200


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
    signature = served.metadata.signature
    assert (signature.inputs.input_names(), signature.outputs.input_names()) == (
        ["frame", "audio"],
        ["map", "boxes", "threshold"],
    )
    assert [(parameter.name, parameter.default) for parameter in signature.params] == [("map_size", "grid")]
    # The example is a real input.
    (row,) = served.predict(served.input_example, params={"map_size": "frame"})
    assert np.asarray(row["map"]).shape == (48, 64)


def test_requirements_are_what_the_served_code_imports(served: Any, store: Store) -> None:
    """Every package that the model's code reaches is pinned, and no other: a clean environment has all it needs."""
    graph = grimp.build_graph(
        "avsl", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    reached = graph.find_upstream_modules("avsl.registry.pyfunc_model")
    modules = {name.partition(".")[0] for name in reached} - {"avsl"} - sys.stdlib_module_names
    names = packages_distributions()
    needed = {module: {name.lower() for name in names[module]} for module in modules}
    saved = Path(mlflow.artifacts.download_artifacts(_URI, tracking_uri=store.uri))
    pinned = {line.partition("==")[0] for line in (saved / "requirements.txt").read_text().splitlines()}
    assert not {module for module, found in needed.items() if not found & pinned}
    # timm imports torchvision, which must fit torch to the version.
    assert pinned - set().union(*needed.values()) == {"torchvision"}
