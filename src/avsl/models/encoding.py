"""What image and audio encoders share: a trunk, which may be frozen, below layers that are always trained."""

from __future__ import annotations

import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from avsl.schema import StrictConfig
from avsl.types import FrontEnd, Outputs

# Settings that change nothing in a trunk's outputs; its weights are hashed themselves.
_BESIDE_TRUNK = {"weights", "frozen", "dropout", "project"}


class Encoder(nn.Module):
    """An encoder of two parts: the trunk, often pretrained, and trained layers on its outputs.

    Attributes:
        TRUNK: names of the trunk's modules.
        frozen: whether the trunk is never trained.
        held: whether the trunk is not trained for now; like a frozen one it stays in evaluation mode.
    """

    TRUNK: ClassVar[Sequence[str]]

    def __init__(self, config: StrictConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.frozen: bool = getattr(config, "frozen", False)
        self.held = False
        self._key = ""

    def trunk_modules(self) -> list[nn.Module]:
        """The trunk's modules."""
        return [getattr(self, name) for name in self.TRUNK]

    def hold(self, held: bool) -> None:
        """Keep the trunk in evaluation mode for now, or no longer."""
        self.held = held
        self.train(self.training)

    @abstractmethod
    def trunk(self, inputs: Tensor) -> Outputs:
        """Compute the trunk's outputs."""

    def freeze_if_asked(self) -> None:
        """Leave a frozen trunk out of the training."""
        for module in self.trunk_modules():
            module.requires_grad_(not self.frozen)
        self.train()  # a module is built in training mode, and Lightning leaves it there

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a trunk that is not trained stays in evaluation mode."""
        super().train(mode)
        if self.frozen or self.held:
            for module in self.trunk_modules():
                module.eval()
        return self

    @property
    def trunk_key(self) -> str:
        """SHA-256 of settings, weights and code, which decide the trunk's outputs of a clip."""
        if not self._key:
            self._key = self._hash_trunk()
        return self._key

    def _hash_trunk(self) -> str:
        settings = self.config.model_dump(mode="json", exclude=_BESIDE_TRUNK)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in sorted({type(part).__module__ for part in (self, *self.inputs_from())}):
            digest.update(name.encode() + Path(str(sys.modules[name].__file__)).read_bytes())
        for module in self.trunk_modules():
            for name, tensor in module.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def inputs_from(self) -> Sequence[object]:
        """What computes the trunk's inputs from a clip."""
        return ()

    def _load_from_state_dict(self, *args: Any) -> None:
        self._key = ""  # of other weights
        super()._load_from_state_dict(*args)


@dataclass(frozen=True)
class AudioEncoding:
    """The output of an audio encoder.

    Attributes:
        embedding: (B, dim), not normalized.
        code: (B, K), of which the embedding is a projection.
    """

    embedding: Tensor
    code: Tensor


class AudioEncoder(Encoder):
    """A front end, a trunk on its features, and a projection of the trunk's outputs.

    Attributes:
        OUTPUTS: number of the trunk's outputs.
        front_end: turns waveforms into features.
        code_dim: K.
    """

    OUTPUTS: ClassVar[int] = 1
    front_end: FrontEnd
    code_dim: int

    def inputs_from(self) -> Sequence[object]:
        """The front end."""
        return (self.front_end,)

    @abstractmethod
    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Compute the embedding of the trunk's outputs."""

    def forward(self, features: Tensor) -> AudioEncoding:
        """Compute the embedding of the front end's features, (B, ...)."""
        return self.embed(self.trunk(features))
