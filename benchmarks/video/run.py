"""Time `avsl localize` on generated videos: ``python benchmarks/video/run.py MODEL [--quick]``.

MODEL is an exported model's folder. Each video is localized in its own process; its seconds, the CPU's and its
greatest resident memory are printed, and written to ``results.md`` beside this file unless ``--quick``.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from avsl.files import write_text

_RATE = 16000


def make_video(path: Path, seconds: int, width: int, height: int, fps: int) -> None:
    """A disc that wanders over a textured ground, H.264, with a tone that comes and goes every 10 s, AAC."""
    rng = np.random.default_rng(0)
    ground = np.kron(
        rng.integers(60, 140, (height // 8 + 1, width // 8 + 1, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    ys, xs = np.mgrid[:height, :width]
    clock = np.arange(_RATE) / _RATE
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        track = container.add_stream("aac", rate=_RATE)
        track.layout = "mono"
        for second in range(seconds):
            for part in range(fps):
                turn = (second + part / fps) / 7
                away = np.hypot(xs - width * (0.5 + 0.3 * np.sin(turn)), ys - height * (0.5 + 0.3 * np.cos(1.3 * turn)))
                pixels = ground[:height, :width].copy()
                pixels[away < height / 6] = (230, 60, 40)
                container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            level = 0.3 if second // 5 % 2 == 0 else 0.0
            wave = (level * np.sin(2 * np.pi * 440 * clock)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = _RATE, second * _RATE
            container.mux(track.encode(sound))
        container.mux(picture.encode())
        container.mux(track.encode())


def localize(model: Path, video: Path, out: Path) -> None:
    """Localize in this process; print seconds, CPU seconds and greatest resident MB, those of the start left out."""
    from avsl.inference.predictor import Predictor
    from avsl.inference.video import localize_video

    predictor = Predictor.load(model)
    start, used = time.perf_counter(), time.process_time()
    localize_video(video, predictor, out, model="benchmark")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - start, time.process_time() - used, peak)


def main() -> None:
    """Make the videos, localize in each, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quick", action="store_true", help="the first row alone, and nothing is written")
    parser.add_argument("--one", type=Path, nargs=2, metavar=("VIDEO", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        localize(options.model, *options.one)
        return
    cases = [(60, 640, 360, 25, 2), (60, 640, 360, 25, 1)]
    cases += [(minutes * 60, 160, 96, 10, 1) for minutes in (1, 10, 60)]
    lines = [
        "| video | model threads | seconds | CPU seconds | of its length, wall / CPU | greatest memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for seconds, width, height, fps, threads in cases[:1] if options.quick else cases:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, "video.mp4")
            make_video(video, seconds, width, height, fps)
            command = [sys.executable, __file__, str(options.model), "--one", str(video), str(Path(folder, "out"))]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        wall, cpu, peak = map(float, printed.split())
        lines.append(
            f"| {seconds / 60:g} min, {width} by {height} px, {fps} frames/s | {threads} | {wall:.1f} | {cpu:.1f}"
            f" | {wall / seconds:.2f} / {cpu / seconds:.2f} | {peak:.0f} |"
        )
        print(lines[-1], flush=True)
    load = f"a mean of {os.getloadavg()[2]:.1f} processes on {os.cpu_count()} cores in its last quarter of an hour."
    print(load)
    if not options.quick:
        text = "# Localizing in video\n\n`python benchmarks/video/run.py MODEL`, one look a second; " + load
        write_text(Path(__file__).with_name("results.md"), text + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
