"""Draw ``overlay.png``: ``python benchmarks/video/picture.py MODEL [--scene N]``.

One frame of the embedded benchmark becomes a video in which one of its objects sounds, then the other, then something
out of view, then nothing; of its overlay, the picture shows a frame of each. MODEL is the folder of an exported model
of that benchmark.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from avsl.data.datasets.synthetic import SAMPLE_RATE, SyntheticConfig, make_scene
from avsl.inference.predictor import Predictor
from avsl.inference.video import localize_video
from avsl.viz.overlay import contact_sheet, save_png

_SECONDS = 3
_FPS = 10
_CAPTIONS = ("the first object sounds", "the other sounds", "something out of view sounds", "silence")


def make_video(path: Path, frame: NDArray[np.uint8], sounds: list[NDArray[np.int16]]) -> None:
    """A standing picture with one sound after another."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=_FPS)
        picture.width, picture.height, picture.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
        track = container.add_stream("aac", rate=SAMPLE_RATE)
        track.layout = "mono"
        for number, wave in enumerate(sounds):
            for _ in range(_SECONDS * _FPS):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            sound.sample_rate, sound.pts = SAMPLE_RATE, number * len(wave)
            container.mux(track.encode(sound))
        container.mux(picture.encode())
        container.mux(track.encode())


def main() -> None:
    """Make the video, localize in it, keep a frame of each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scene", type=int, default=0, help="number of the frame (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("overlay.png"))
    options = parser.parse_args()
    config = SyntheticConfig(image_size=256, duration_s=_SECONDS)
    first, second = make_scene(config, "test_swap", options.scene, rows=2)
    strange = make_scene(config, "test_offscreen", options.scene + 1)[0]
    if strange.label in first.meta["in_view"]:
        parser.error(f"scene {options.scene} shows a {strange.label}, which should sound out of view: take another")
    silence = np.zeros_like(first.waveform)
    with tempfile.TemporaryDirectory() as name:
        video = Path(name, "scene.mp4")
        make_video(video, first.frame, [first.waveform, second.waveform, strange.waveform, silence])
        model = Predictor.load(options.model)
        target = localize_video(video, model, Path(name, "out"), model="picture", frames_per_second=2, smoothing_s=0.5)
        for row in json.loads(target.read_text())["seconds"]:
            print(row)
        with av.open(str(target.with_suffix(".mp4"))) as container:
            frames = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]
    middles = [round((number + 0.6) * _SECONDS * _FPS) for number in range(len(_CAPTIONS))]
    save_png(contact_sheet([frames[k] for k in middles], _CAPTIONS, len(_CAPTIONS), width=224), options.out)


if __name__ == "__main__":
    main()
