"""What every audio encoder is and makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from avsl.types import FrontEnd


@dataclass(frozen=True)
class AudioEncoding:
    """What an audio encoder makes of a sound.

    Attributes:
        embedding: (B, dim), not normalized.
        code: (B, K), what the embedding was projected from.
    """

    embedding: Tensor
    code: Tensor


class AudioEncoder(Protocol):
    """A front end, and a network on what it hears."""

    front_end: FrontEnd
    code_dim: int

    def __call__(self, features: Tensor) -> AudioEncoding:
        """The front end's features, (B, ...), to embeddings."""
        ...
