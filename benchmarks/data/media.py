"""Small media to measure with: moving pictures with noise, a tone in noise; each a function of its number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT, SECONDS, FPS = 320, 240, 10, 25


def picture(k: int, moved: int = 0) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3): soft shapes that move by pixels, and a little noise that does not repeat."""
    rng = np.random.default_rng(k)
    coarse = rng.integers(0, 256, (HEIGHT // 8 + 32, WIDTH // 8 + 32, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((WIDTH + 256, HEIGHT + 256), Image.Resampling.BICUBIC))
    seen = scene[moved : moved + HEIGHT, moved : moved + WIDTH].astype(np.int16)
    noise = np.random.default_rng((k, moved)).integers(-6, 7, seen.shape, dtype=np.int16)
    made: NDArray[np.uint8] = np.clip(seen + noise, 0, 255).astype(np.uint8)
    return made


def sound(k: int, rate: int) -> NDArray[np.float32]:
    """(SECONDS · rate,): a tone in noise."""
    times = np.arange(SECONDS * rate) / rate
    noise = np.random.default_rng(k).standard_normal(len(times))
    return (0.3 * np.sin(2 * np.pi * (200 + 20 * k % 2000) * times) + 0.05 * noise).astype(np.float32)


def write_clip(path: Path, k: int) -> None:
    """An mp4 as YouTube gives it: H.264 with B-frames at 25 fps, AAC at 44.1 kHz."""
    rate = 44100
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=rate)
        for i in range(SECONDS * FPS):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(k, i), format="rgb24")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(sound(k, rate)[None], format="fltp", layout="mono")
        samples.sample_rate = rate
        container.mux(audio.encode(samples))
        container.mux(audio.encode())


def write_pair(root: Path, name: str, k: int) -> None:
    """A frame and its whole sound, as VGG-SS is usually unpacked: JPEG and 16 kHz WAV."""
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(k)).save(root / "frames" / f"{name}.jpg", quality=95)
    soundfile.write(root / "audio" / f"{name}.wav", sound(k, 16000), 16000)
