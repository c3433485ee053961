"""The interface of audio encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from avsl.types import FrontEnd


@dataclass(frozen=True)
class AudioEncoding:
    """The output of an audio encoder.

    Attributes:
        embedding: (B, dim), not normalized.
        code: (B, K), of which the embedding is a projection.
    """

    embedding: Tensor
    code: Tensor


class AudioEncoder(Protocol):
    """A front end and a network on its features."""

    front_end: FrontEnd
    code_dim: int

    def __call__(self, features: Tensor) -> AudioEncoding:
        """Compute embeddings of the front end's features, (B, ...)."""
        ...
