"""Passes clips through a model: embeddings, and the agreement of its two localizers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
        embeddings: list[torch.Tensor] = [torch.empty(0, 1)]
        agreement: list[torch.Tensor] = []
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
                    seen, agreed = self._pass(np.stack(frames), np.stack(sounds))
                    embeddings.append(seen)
                    agreement += agreed
        width = embeddings[-1].shape[1]
        joined = torch.cat([each.reshape(-1, width) for each in embeddings]).numpy()
        return used, Perception(joined, torch.cat(agreement).numpy() if agreement else None)

    @torch.inference_mode()
    def _pass(
        self,
        frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
        sounds: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
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
        embedding = F.normalize(torch.cat(parts, dim=1), dim=1)
        if len(outputs) != 2:
            return embedding, []
        first, second = to_finest_grid([output.confidence for output in outputs])
        return embedding, [soft_iou(first, second, torch.ones_like(first))]
