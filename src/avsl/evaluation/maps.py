"""A model's maps of the samples of a part: with their sounds, with shuffled sounds, with an object prior.

Maps are stored at the model's resolution and enlarged to the frame's a few samples at a time to limit memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from avsl.data.loading import RowReader
from avsl.data.transforms import plain_view
from avsl.functional.object_guided import object_guided
from avsl.functional.seeds import derive_seed
from avsl.models import Localizer, ObjectPrior, average
from avsl.types import AVBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of samples that are scored at once; their maps of 224 px fit a core's cache.
CHUNK = 16


@dataclass(frozen=True)
class Chunk:
    """A few samples to score.

    Attributes:
        rows: their positions among the samples of the part.
        confidence: (B, h, w).
        shuffled: (B, h, w) confidence with other samples' sounds; None if it was not computed.
        truth: (B, H, W) bool annotation.
        exact: (B,) bool, whether the truth is an exact mask instead of boxes.
        group: (B,) integer, equal for samples of the part that share a frame.
    """

    rows: slice
    confidence: Tensor
    shuffled: Tensor | None
    truth: Tensor
    exact: Tensor
    group: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the truth, px."""
        return self.truth.shape[-2], self.truth.shape[-1]


@dataclass(frozen=True)
class Guidance:
    """The object prior of maps (OGL).

    Attributes:
        objects: (N, h', w') object maps.
        alpha: the model's share in the mixture.
    """

    objects: Tensor
    alpha: float


@dataclass(frozen=True)
class Maps:
    """The maps of several samples.

    Attributes:
        rows: (N,) row numbers.
        members: (N, h, w) confidences of each member of the model.
        shuffled: (N, h, w) confidences of each member with another sample's sound; None if not requested.
        reader: reader of the truth.
        sounds: (N,) row numbers of the shuffled sounds; None if they were not requested.
        controls: (N, h, w) confidences of the model with one sound for every frame, by the sound's name.
        guidance: an object prior to mix in; None for none.
    """

    rows: NDArray[np.int64]
    members: Sequence[Tensor]
    shuffled: Sequence[Tensor] | None
    reader: RowReader
    guidance: Guidance | None = None
    sounds: NDArray[np.int64] | None = None
    controls: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def confidence(self) -> Tensor:
        """The model's confidence: the mean of its members."""
        return average(self.members)

    def member(self, k: int) -> Maps:
        """The k-th member alone."""
        shuffled = None if self.shuffled is None else [self.shuffled[k]]
        return replace(self, members=[self.members[k]], shuffled=shuffled)

    def chunks(self) -> Iterator[Chunk]:
        """Iterate over the samples in order, a few at a time."""
        heard, shuffled = self.confidence, None if self.shuffled is None else average(self.shuffled)
        data = self.reader.data
        exact = torch.from_numpy(data.exact[self.rows])
        group = torch.from_numpy(np.unique(data.group_ids[self.rows], return_inverse=True)[1])
        for start in range(0, len(self.rows), CHUNK):
            part = slice(start, start + CHUNK)
            truth = self.reader.truth(self.rows[part])
            size = (truth.shape[-2], truth.shape[-1])
            yield Chunk(
                part,
                self._guided(heard[part], part, size),
                None if shuffled is None else self._guided(shuffled[part], part, size),
                truth,
                exact[part],
                group[part],
            )

    def _guided(self, confidence: Tensor, part: slice, size: tuple[int, int]) -> Tensor:
        if self.guidance is None:
            return confidence
        # Logits are mixed, because those of one localizer are linear in its similarity, the published map.
        objects = self.guidance.objects[part]
        return object_guided(confidence.logit(eps=1e-6), objects, self.guidance.alpha, size)


@torch.inference_mode()
def compute_maps(
    members: Sequence[nn.Module],
    reader: RowReader,
    rows: NDArray[np.int64],
    batch_size: int,
    *,
    shuffle: bool = False,
    controls: Mapping[str, Tensor] | None = None,
) -> Maps:
    """Compute the members' maps of ``rows`` with their sounds and, if ``shuffle`` is True, with shuffled sounds.

    The maps are also computed with each waveform of ``controls``, (T,) in [-1, 1], as the sound of every frame. A
    localizer encodes each frame once.

    The shuffle is seeded, and every frame gets another sample's sound if there are at least two samples.
    """
    order = np.random.default_rng(derive_seed(3000, len(rows))).permutation(len(rows))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    maps: list[list[Tensor]] = [[] for _ in members]
    shuffled: list[list[Tensor]] = [[] for _ in members]
    heard: dict[str, list[Tensor]] = {name: [] for name in controls or {}}
    for start in range(0, len(rows), batch_size):
        stop = start + batch_size
        view = plain_view(reader(rows[start:stop], masks=False))
        views = [view]
        if shuffle:
            wrong = plain_view(reader(rows[other[start:stop]], masks=False))
            views.append(replace(view, waveform=wrong.waveform, features=wrong.features, heard=wrong.heard))
        views += [
            replace(view, waveform=sound.expand(len(view), -1), features={}, heard={})
            for sound in (controls or {}).values()
        ]
        found = [_confidences(member, views) for member in members]
        for k, confidences in enumerate(found):
            maps[k].append(confidences[0])
            if shuffle:
                shuffled[k].append(confidences[1])
        for name, of_members in zip(heard, zip(*(c[1 + shuffle :] for c in found), strict=True), strict=True):
            heard[name].append(average(of_members))
    of_controls = {name: torch.cat(found) for name, found in heard.items()}
    plain = Maps(rows, [torch.cat(m) for m in maps], None, reader, controls=of_controls)
    return replace(plain, shuffled=[torch.cat(m) for m in shuffled], sounds=rows[other]) if shuffle else plain


def _confidences(member: nn.Module, views: Sequence[AVBatch]) -> list[Tensor]:
    """Compute a member's confidences for views that differ only in their sounds."""
    if not isinstance(member, Localizer):
        return [member(view).confidence for view in views]
    seen = member.see(views[0])
    return [member(view, seen).confidence for view in views]


@torch.inference_mode()
def guide(maps: Maps, prior: ObjectPrior, batch_size: int) -> Maps:
    """Add an object prior (OGL), which is mixed with the model's maps at the size of the truth."""
    batches = [maps.rows[start : start + batch_size] for start in range(0, len(maps.rows), batch_size)]
    objects = torch.cat([prior(maps.reader.frames(rows)) for rows in batches])
    return replace(maps, guidance=Guidance(objects, prior.config.alpha))
