"""Small real media, and the published annotation files where they are at hand."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.reference import find_shared

from avsl.data.datasets import DATASETS, make_prepared, on_disk
from avsl.data.index import Index
from avsl.data.prepared.reader import PreparedData

SIDE = 32
RATE = 16000


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published annotations and lists."""
    return find_shared("annotations")


@pytest.fixture
def published_root(published: Path, tmp_path: Path) -> Path:
    """A data set's folder with every published list and not one picture or sound."""
    root = tmp_path / "published"
    for name in ("frames", "audio"):
        (root / name).mkdir(parents=True)
    for path in published.iterdir():
        (root / path.name).symlink_to(path)
    return root


@pytest.fixture
def read_index() -> Callable[..., Index]:
    """Lists a data set: its name, its folder, settings."""

    def read(name: str, root: Path, **settings: object) -> Index:
        lister, model = on_disk()[name]
        return lister(model.read({"root": str(root)} | settings, f"data.{name}"))

    return read


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., PreparedData]:
    """Prepares a data set into ``tmp_path / "out"``, frames of 32 px, half a second: its name, its folder, settings."""

    def run(name: str, root: Path, workers: int = 1, out: str = "out", **settings: object) -> PreparedData:
        _, model = DATASETS[name]
        given = {"root": str(root), "image_size": SIDE, "duration_s": 0.5, "shard_rows": 5} | settings
        make_prepared(name, model.read(given, f"data.{name}"), tmp_path / out, workers)
        return PreparedData.open(tmp_path / out)

    return run


@pytest.fixture(scope="session")
def add_picture() -> Callable[[Path, int], None]:
    """Writes a picture, 60 x 40, of one gray."""

    def add(path: Path, gray: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), gray, np.uint8)).save(path)

    return add


@pytest.fixture(scope="session")
def add_mask() -> Callable[[Path, int], None]:
    """Writes a mask, a picture or an array, of the left columns of 60."""

    def add(path: Path, columns: int) -> None:
        path.parent.mkdir(exist_ok=True)
        pixels = np.zeros((40, 60), np.uint8)
        pixels[:, :columns] = 255
        if path.suffix == ".npy":
            np.save(path, pixels)
        else:
            Image.fromarray(pixels).save(path)

    return add


@pytest.fixture(scope="session")
def add_sound() -> Callable[..., None]:
    """Writes a second of a tone at half the full scale; its frequency in Hz, its length in seconds."""

    def add(path: Path, frequency: float, seconds: float = 1.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency * times), RATE)

    return add


@pytest.fixture(scope="session")
def write_video() -> Callable[[Path, Sequence[int], NDArray[np.floating[Any]]], None]:
    """Writes a video of ten frames a second, each of one gray, with mono samples at ``RATE``."""

    def write(path: Path, grays: Sequence[int], samples: NDArray[np.floating[Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            track = container.add_stream("aac", rate=RATE)
            for gray in grays:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), gray, np.uint8), format="rgb24")
                container.mux(picture.encode(frame))
            sound = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
            sound.sample_rate = RATE
            container.mux(track.encode(sound))
            container.mux(picture.encode())
            container.mux(track.encode())

    return write


@pytest.fixture(scope="session")
def add_clip(
    write_video: Callable[[Path, Sequence[int], NDArray[np.floating[Any]]], None],
) -> Callable[[Path, int, float], None]:
    """Writes a video of a second: one gray, a tone."""

    def add(path: Path, gray: int, frequency: float) -> None:
        write_video(path, [gray] * 10, 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE))

    return add


@pytest.fixture(scope="session")
def tones() -> Callable[[PreparedData, int], set[int]]:
    """The frequencies in a row's sound, to the nearest 10 Hz."""

    def find(data: PreparedData, row: int) -> set[int]:
        samples = data.waveforms(np.array([row]))[0]
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        loud = np.flatnonzero(spectrum > 0.5 * spectrum.max()) * RATE / len(samples)
        return {round(f, -1) for f in loud.round().astype(int).tolist()}

    return find


@pytest.fixture(scope="session")
def read_csv() -> Callable[[Path], list[Mapping[str, Any]]]:
    """The rows of a CSV with a header."""

    def read(path: Path) -> list[Mapping[str, Any]]:
        with path.open() as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips with boxes."""
    return find_shared("clips")


@pytest.fixture
def add_row(
    add_picture: Callable[[Path, int], None], add_sound: Callable[..., None]
) -> Callable[[Path, str, int], None]:
    """Writes sample ``k`` into ``frames/`` and ``audio/``: a frame of gray 10 k, a tone of 200 + 50 k Hz."""

    def add(root: Path, name: str, k: int) -> None:
        add_picture(root / "frames" / f"{name}.png", 10 * k)
        add_sound(root / "audio" / f"{name}.flac", 200 + 50 * k)

    return add
