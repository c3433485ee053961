"""A loader as the published repositories have it, to compare with: every epoch decodes and transforms everything again.

Written after the data sets of EZ-VSL, SLAVC and FNAC: a JPEG by Pillow, resized a tenth larger, cropped, mirrored and
normalized by torchvision; a whole sound file by soundfile, its middle three seconds, SciPy's spectrogram.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from scipy import signal
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

RATE = 16000


class NaiveDataset(Dataset[tuple[Tensor, Tensor]]):
    """Frames (3, size, size) and log-spectrograms (1, 257, frames) of ``frames/<name>.jpg`` and ``audio/<name>.wav``.

    Args:
        root: folder with both.
        size: of the frames, pixels.
        seconds: of the sounds.
    """

    def __init__(self, root: Path, size: int, seconds: float) -> None:
        self._frames = sorted((root / "frames").glob("*.jpg"))
        self._sounds = root / "audio"
        self._length = round(seconds * RATE)
        self._transform = transforms.Compose(
            [
                transforms.Resize(int(size * 1.1), transforms.InterpolationMode.BICUBIC),
                transforms.RandomCrop((size, size)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        path = self._frames[k]
        frame: Tensor = self._transform(Image.open(path).convert("RGB"))
        sound, rate = soundfile.read(self._sounds / f"{path.stem}.wav")
        start = (len(sound) - self._length) // 2
        sound = np.clip(sound[start : start + self._length], -1.0, 1.0)
        _, _, power = signal.spectrogram(sound, rate, nperseg=512, noverlap=274)
        return frame, torch.from_numpy(np.log(power + 1e-7) / 12.0).float()[None]
