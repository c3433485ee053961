"""The candidates that a strategy chooses from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from avsl.schema import ConfigError, StrictConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


class StrategyConfig(StrictConfig):
    """Settings of a strategy.

    Attributes:
        ASKS_MODEL: whether the strategy needs what a model makes of the candidates.
    """

    ASKS_MODEL: ClassVar[bool] = False


@dataclass(frozen=True)
class Perception:
    """A model's outputs for clips.

    Attributes:
        embeddings: (n, D), of unit length: the sound's and the frame's embedding of every localizer.
        agreement: (n,) soft IoU of its two localizers' confidence maps, in [0, 1]; None where it has one.
    """

    embeddings: NDArray[np.float32]
    agreement: NDArray[np.float32] | None


@dataclass(frozen=True)
class Choice:
    """A chosen candidate.

    Attributes:
        index: among the candidates.
        why: a few words for a person.
        score: on the strategy's scale.
    """

    index: int
    why: str
    score: float


class Pool:
    """Candidates, one clip of each recording, with their outputs and classes.

    Args:
        labels: the candidates' classes, empty where not known.
        counts: how many clips of each class are annotated or were suggested before.
        perceptions: what the model makes of the candidates, and of the clips that are annotated or were suggested
            before; None without a model.

    Attributes:
        labels: as given.
        counts: of each class, with what is taken.
        remaining: (n,) which candidates are not taken yet.
    """

    def __init__(
        self,
        labels: Sequence[str],
        counts: Mapping[str, int],
        perceptions: tuple[Perception, Perception] | None,
    ) -> None:
        self.labels = labels
        self.counts = dict(counts)
        self.remaining: NDArray[np.bool_] = np.ones(len(labels), dtype=np.bool_)
        self._looked = perceptions

    @property
    def _perceptions(self) -> tuple[Perception, Perception]:
        if self._looked is None:
            raise ConfigError(
                "this strategy needs a model: name a trained one with --model (a folder or models:/NAME@ALIAS), or "
                "choose encoders with pretrained weights (model=pretrained)"
            )
        return self._looked

    @cached_property
    def distance(self) -> NDArray[np.float64]:
        """(n,) from each candidate to the nearest clip that is labeled or taken, in [0, 1]; 1 where there is none."""
        candidates, known = self._perceptions
        nearest = np.ones(len(self.labels))
        for embedding in (*known.embeddings, *candidates.embeddings[~self.remaining]):
            nearest = np.minimum(nearest, self._distances(candidates, embedding))
        return nearest

    @property
    def disagreement(self) -> NDArray[np.float64]:
        """(n,) 1 − soft IoU of the model's two localizers.

        Raises:
            ConfigError: there is no model, or it is a single localizer.
        """
        agreement = self._perceptions[0].agreement
        if agreement is None:
            raise ConfigError(
                "disagreement needs a model of two localizers, as dmt and xpl train them: this one is one"
            )
        return 1 - agreement.astype(np.float64)

    def take(self, index: int) -> None:
        """Count a candidate as chosen."""
        self.remaining[index] = False
        self.counts[self.labels[index]] = self.counts.get(self.labels[index], 0) + 1
        if "distance" in self.__dict__:
            candidates, _ = self._perceptions
            self.distance = np.minimum(self.distance, self._distances(candidates, candidates.embeddings[index]))

    @staticmethod
    def _distances(candidates: Perception, embedding: NDArray[np.float32]) -> NDArray[np.float64]:
        distances: NDArray[np.float64] = np.linalg.norm(candidates.embeddings - embedding, axis=1) / 2.0
        return distances


Strategy = Callable[[Pool, Any, np.random.Generator], Iterator[Choice]]
"""Yields candidates of a pool in the order in which they are worth a label, given its settings; takes each."""


def draw_highest(values: NDArray[np.float64], pool: Pool, rng: np.random.Generator) -> int:
    """Return the remaining candidate with the highest value, drawn at random among equals."""
    among = np.where(pool.remaining, values, -np.inf)
    return int(rng.choice(np.flatnonzero(among == among.max())))
