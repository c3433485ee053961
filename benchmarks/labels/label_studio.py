"""A round of labeling in a real Label Studio: exported, shown in a browser, answered, imported back to the pixel.

    python -m benchmarks.labels.label_studio [--label-studio PROGRAM] [--work FOLDER]

Makes six small videos and a round of them, installs Label Studio into its own environment in a temporary folder
(or takes PROGRAM), starts it on loopback, imports the exported round through its API, photographs a task with frame,
boxes and audio player in a headless Chromium, answers every task through the API, exports, and imports the export with
`avsl labels import`. Ends with an error if a box has moved. Writes label_studio.png beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import av
import numpy as np
import torch
import yaml
from playwright.sync_api import sync_playwright

from avsl.labels.tasks import Frame, read_frames
from avsl.models import ExportedModel, Localizer, LocalizerConfig, LocalizerEnsemble, save_exported

_VERSION = "1.23.2"
_USER, _PASSWORD = "annotator@example.com", secrets.token_urlsafe(12)
_WIDTH, _HEIGHT, _FPS, _SECONDS, _RATE = 640, 360, 10, 4, 44100
_RADIUS = 45
_CLIPS = 6
_SILENT = "nothing in view sounds"
_WAIT_S = 900
# Until the browser has drawn the waveform and the boxes.
_DRAWN_MS = 15000
_HERE = Path(__file__).parent

Box = tuple[int, int, int, int]


def center(clip: int) -> tuple[int, int]:
    """Where the disc of a clip is, in pixels."""
    return 90 + 90 * clip, 120 + 37 * (clip % 4)


def true_box(clip: int) -> Box:
    """The box around the disc: x0, y0, x1, y1 in pixels; widths that Label Studio's per cents do not divide evenly."""
    x, y = center(clip)
    return x - _RADIUS - clip, y - _RADIUS, x + _RADIUS, y + _RADIUS + 1


def write_clip(path: Path, clip: int) -> None:
    """Write a video of a still colored disc and a tone."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    x, y = center(clip)
    picture = np.full((_HEIGHT, _WIDTH, 3), 60, np.uint8)
    picture[(columns - x) ** 2 + (rows - y) ** 2 < _RADIUS**2] = (230, 40 * clip, 60)
    tone = 0.4 * np.sin(2 * np.pi * (220 + 110 * clip) * np.arange(_SECONDS * _RATE) / _RATE)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=_FPS), container.add_stream("aac", rate=_RATE)
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for _ in range(_FPS * _SECONDS):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        samples.sample_rate = _RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode())


def save_untrained_model(folder: Path) -> None:
    """Export a small localizer of random weights; at so low a threshold it boxes something in every frame."""
    folder.mkdir()
    torch.manual_seed(0)
    network = {"backbone": "resnet10t", "backbone_args": {"channels": [8, 8, 8, 8], "stem_width": 8}}
    audio = network | {"front_end": {"hop_length": 320, "n_mels": 32}}
    stated = LocalizerConfig.model_validate({"dim": 8, "image": network | {"stages": [1]}, "audio": audio})
    model = LocalizerEnsemble([Localizer(stated)])
    about = ExportedModel(members=[stated], image_size=64, sample_rate=16000, duration_s=3.0, threshold=0.12)
    save_exported(folder, model, about)


def avsl(project: Path, *words: str) -> None:
    """Run a command in the project."""
    print("$ avsl", *words, flush=True)
    subprocess.run([sys.executable, "-m", "avsl.cli", *words], cwd=project, check=True)


def install(folder: Path) -> Path:
    """Install Label Studio into a separate environment and return its program."""
    print(f"installing label-studio {_VERSION} into {folder}", flush=True)
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", f"label-studio=={_VERSION}"], check=True)
    return folder / "bin" / "label-studio"


class Server:
    """A running Label Studio.

    Args:
        address: on loopback.
        token: of its user.
    """

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self._token = token

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of its answer."""
        headers = {"Authorization": f"Token {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.address + path, data, headers, method=method), timeout=120) as answer:
                return json.loads(answer.read() or "null")
        except HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from None


@contextmanager
def serve(program: Path, work: Path, readable: Path) -> Iterator[Server]:
    """Run Label Studio on a free port of loopback, with its data below a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(20)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(readable),
    }
    command = [
        program,
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "-p",
        port,
        "--data-dir",
        work / "data",
    ]
    command += ["--username", _USER, "--password", _PASSWORD, "--user-token", token, "--enable-legacy-api-token"]
    with (work / "label-studio.log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment, cwd=work)
        try:
            server = Server(f"http://127.0.0.1:{port}", token)
            deadline = time.monotonic() + _WAIT_S
            while True:
                try:
                    print(
                        "Label Studio", server.ask("GET", "/api/version")["release"], "at", server.address, flush=True
                    )
                    break
                except (URLError, OSError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"Label Studio did not start: see {log.name}") from None
                    time.sleep(2)
            yield server
        finally:
            process.terminate()
            process.wait()


def import_round(server: Server, tasks: Path) -> tuple[int, list[dict[str, Any]]]:
    """Do what the task folder's README says, through the API; returns the project and its tasks."""
    settings = {
        "title": tasks.name,
        "label_config": (tasks / "interface.xml").read_text(),
        "show_collab_predictions": True,
    }
    project = server.ask("POST", "/api/projects", settings)["id"]
    storage = {"project": project, "title": "round", "path": str(tasks), "use_blob_urls": True}
    server.ask("POST", "/api/storages/localfiles", storage)
    server.ask("POST", f"/api/projects/{project}/import", json.loads((tasks / "tasks.json").read_text()))
    return project, server.ask("GET", f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]


def photograph(server: Server, project: int, task: dict[str, Any]) -> None:
    """Open a task as an annotator does; fails where frame, audio player or the model's boxes are not there."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("a Chromium must be installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * _WAIT_S)
        page.goto(f"{server.address}/user/login")
        page.locator("input[name=email]").fill(_USER)
        page.locator("input[name=password]").fill(_PASSWORD)
        page.locator("input[name=password]").press("Enter")
        page.wait_for_url(lambda address: "/user/login" not in address, wait_until="commit")
        page.goto(f"{server.address}/projects/{project}/data?task={task['id']}")
        # The frame at full resolution, and three seconds of sound that can be played.
        page.wait_for_function(f"document.querySelector('img[alt=image]')?.naturalWidth == {task['data']['width']}")
        page.wait_for_function("Math.abs(document.querySelector('audio')?.duration - 3) < 0.05")
        page.wait_for_timeout(_DRAWN_MS)
        page.screenshot(path=_HERE / "label_studio.png")
        browser.close()


def answer(server: Server, task: dict[str, Any], boxes: list[Box]) -> None:
    """Submit boxes as the page does, or that nothing sounds."""
    width, height = task["data"]["width"], task["data"]["height"]
    shared = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    result: list[dict[str, Any]] = [
        {
            "id": f"region{k}",
            "from_name": "boxes",
            "type": "rectanglelabels",
            "value": {
                "x": 100 * x0 / width,
                "y": 100 * y0 / height,
                "width": 100 * (x1 - x0) / width,
                "height": 100 * (y1 - y0) / height,
                "rotation": 0,
                "rectanglelabels": ["sound"],
            },
        }
        | shared
        for k, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    if not boxes:
        result = [
            {"id": "c", "from_name": "answer", "to_name": "image", "type": "choices", "value": {"choices": [_SILENT]}}
        ]
    server.ask("POST", f"/api/tasks/{task['id']}/annotations", {"result": result, "lead_time": 1.0})


def read_boxes(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """Read the boxes of an annotation file by clip, as fractions."""
    found: dict[str, list[tuple[float, ...]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            boxes = found.setdefault(row["file"], [])
            boxes += [tuple(float(row[key]) for key in ("x0", "y0", "x1", "y1"))] if row["x0"] else []
    return found


def compare(
    answers: dict[str, list[Box]], imported: dict[str, list[tuple[float, ...]]], frames: dict[str, Frame]
) -> float:
    """Return by how many pixels an imported box is off at most; ends the script where clips or numbers differ."""
    if answers.keys() != imported.keys():
        raise SystemExit(f"answered {sorted(answers)}, imported {sorted(imported)}")
    off = 0.0
    for clip, boxes in answers.items():
        back = imported[clip]
        if len(back) != len(boxes):
            raise SystemExit(f"{clip}: {len(boxes)} boxes became {len(back)}")
        size = (frames[clip].width, frames[clip].height) * 2
        for box, fractions in zip(boxes, back, strict=True):
            off = max(off, float(np.abs(np.array(fractions) * size - box).max()))
    return off


def main() -> None:
    """Do all of it, and say what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label-studio", type=Path, metavar="PROGRAM", help="an installed one (default: install it)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="default: a temporary folder, removed at the end")
    asked = parser.parse_args()
    work = (asked.work or Path(mkdtemp(prefix="label-studio-"))).resolve()
    clips = work / "CLIPS"
    clips.mkdir(parents=True)
    for clip in range(_CLIPS):
        write_clip(clips / f"video{clip}.mp4", clip)
    shares = {"root": "CLIPS", "test_share": 0.3, "validation_share": 0.3}
    (work / "params.yaml").write_text(yaml.safe_dump({"data": {"name": "folder", "folder": shares}}))
    save_untrained_model(work / "model")
    avsl(work, "labels", "suggest", "--budget", str(_CLIPS))
    avsl(work, "labels", "export", "--to", "label-studio", "--model", "model")
    (tasks,) = (work / "outputs" / "folder" / "labels").glob("label-studio-*")
    program = asked.label_studio or install(work / "environment")
    answers: dict[str, list[Box]] = {}
    with serve(program.absolute(), work, tasks.parent) as server:
        project, loaded = import_round(server, tasks)
        photograph(server, project, next(task for task in loaded if task["predictions"]))
        for k, task in enumerate(loaded):
            name = task["data"]["id"]
            answers[name] = [] if k == 0 else [true_box(int(name[-1]))]
            if k == 1:
                answers[name].append((0, 0, 33, 17))
            answer(server, task, answers[name])
        exported = server.ask("GET", f"/api/projects/{project}/export?exportType=JSON")
    (work / "export.json").write_text(json.dumps(exported))
    avsl(work, "labels", "import", "export.json")
    off = compare(answers, read_boxes(clips / "annotations.csv"), read_frames(work / "labels"))
    n_boxes = sum(map(len, answers.values()))
    print(f"{len(loaded)} tasks with {n_boxes} boxes and one '{_SILENT}' came back; largest difference {off:.6f} px")
    if off >= 0.001:
        raise SystemExit("boxes have moved")
    if asked.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
