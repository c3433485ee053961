"""Passes clips through a model: embeddings, and the agreement of its two localizers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from avsl.config.models import Config
from avsl.console import progress_bar
from avsl.data.index import Entry
from avsl.data.media.image import resize_frame
from avsl.errors import DataError
from avsl.functional.curriculum import soft_iou
from avsl.functional.geometry import identity
from avsl.functional.image import normalize
from avsl.functional.pseudo_labels import to_finest_grid
from avsl.labels.clips import ClipFolder
from avsl.labels.strategies.pool import Perception
from avsl.models import Localizer, LocalizerEnsemble, load_exported
from avsl.registry.load import exported_model
from avsl.types import AVBatch, AVOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_BATCH = 16
_SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Perceiver:
    """A model that clips are decoded for and passed through.

    Attributes:
        model: one localizer, or two whose confidences are averaged.
        image_size: side of the model's frames, px.
        sample_rate: sample rate of the sounds, Hz.
        duration_s: length of the sounds, s.
    """

    model: LocalizerEnsemble
    image_size: int
    sample_rate: int
    duration_s: float

    @classmethod
    @contextmanager
    def open(cls, name: str | None, config: Config, folder: ClipFolder) -> Iterator[Perceiver | None]:
        """Load the named model, else the configuration's encoders if they have pretrained weights.

        Pretrained encoders get a head of random weights, which roughly preserves distances.

        Yields:
            The model; None if no model is named and the encoders have no pretrained weights.
        """
        if name is not None:
            with exported_model(name, config) as (path, _):
                model, stated = load_exported(path)
                yield cls(model, stated.image_size, stated.sample_rate, stated.duration_s)
            return
        described = config.model.student(0)
        if not described.image.weights:
            yield None
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            localizer = Localizer(described)
        settings = folder.settings
        model = LocalizerEnsemble([localizer]).eval()
        yield cls(model, settings.image_size, _SAMPLE_RATE, settings.duration_s)

    def perceive(self, folder: ClipFolder, clips: Sequence[Entry]) -> tuple[list[Entry], Perception]:
        """Decode clips and pass them through the model; those that cannot be decoded are left out with a warning.

        Returns:
            The clips that can be used, and the model's outputs in the same order.
        """
        used: list[Entry] = []
        seen: list[Perception] = []
        with progress_bar("clips", len(clips)) as bar:
            for start in range(0, len(clips), _BATCH):
                batch = clips[start : start + _BATCH]
                frames, sounds = [], []
                for clip in batch:
                    bar.advance()
                    try:
                        frame = folder.read_frame(clip)
                        sound = folder.read_sound(clip, self.sample_rate, self.duration_s)
                    except DataError as error:
                        log.warning("left out: %s", error)
                        continue
                    used.append(clip)
                    frames.append(resize_frame(frame, self.image_size))
                    sounds.append(sound)
                if frames:
                    seen.append(self.look(np.stack(frames), np.stack(sounds)))
        return used, join_perceptions(seen)

    @torch.inference_mode()
    def look(self, frames: NDArray[np.uint8], sounds: NDArray[np.float32]) -> Perception:
        """Pass decoded clips through the model at once.

        Args:
            frames: (n, image_size, image_size, 3) RGB.
            sounds: (n, T) samples in [-1, 1].
        """
        batch = AVBatch(
            frame=normalize(torch.from_numpy(frames)),
            waveform=torch.from_numpy(sounds),
            features={},
            index=torch.arange(len(frames)),
            geometry=identity(len(frames), torch.device("cpu")),
        )
        outputs: list[AVOutput] = [member(batch) for member in self.model.members]
        heads = [head for output in outputs for head in output.heads]
        parts = [part for head in heads for part in (head.audio, F.normalize(head.visual.mean((2, 3)), dim=1))]
        embedding = F.normalize(torch.cat(parts, dim=1), dim=1).numpy()
        if len(outputs) != 2:
            return Perception(embedding, None)
        first, second = to_finest_grid([output.confidence for output in outputs])
        return Perception(embedding, soft_iou(first, second, torch.ones_like(first)).numpy())


def join_perceptions(seen: Sequence[Perception]) -> Perception:
    """Join what one model makes of several batches of clips; none give an empty one."""
    if not seen:
        return Perception(np.empty((0, 1), np.float32), None)
    agreement = [each.agreement for each in seen if each.agreement is not None]
    return Perception(
        np.concatenate([each.embeddings for each in seen]), np.concatenate(agreement) if agreement else None
    )
