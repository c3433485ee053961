"""Search spaces: the searched keys of a configuration and the distributions of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from avsl.config.models import TrainerConfig
from avsl.frameworks import FRAMEWORKS
from avsl.schema import ConfigError, StrictConfig, lookup

if TYPE_CHECKING:
    from optuna import Trial

Value = float | int | str | bool
# The space that all frameworks share.
COMMON = "common"


class Number(StrictConfig):
    """A number in [low, high], rounded to four significant digits so that logs show the value exactly.

    Attributes:
        kind: ``float`` draws it uniformly, ``log`` its logarithm, ``log_complement`` the logarithm of 1 − x, in which
            the decays 0.9, 0.99 and 0.999 are equally spaced.
        low: smallest value.
        high: largest value.
    """

    kind: Literal["float", "log", "log_complement"]
    low: float
    high: float

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.low >= self.high:
            raise ConfigError(f"low = {self.low} must be below high = {self.high}")
        if (self.kind == "log" and self.low <= 0) or (self.kind == "log_complement" and self.high >= 1):
            raise ConfigError(f"kind = {self.kind} has no logarithm from {self.low} to {self.high}")
        return self

    def name(self, key: str) -> str:
        """The name of Optuna's parameter."""
        return f"1 - {key}" if self.kind == "log_complement" else key

    def suggest(self, trial: Trial, key: str) -> Value:
        """Let Optuna suggest a value; returns the value of the setting."""
        if self.kind == "log_complement":
            complement = trial.suggest_float(self.name(key), _short(1 - self.high), _short(1 - self.low), log=True)
            value = _short(1 - float(f"{complement:.4g}"))
        else:
            value = float(f"{trial.suggest_float(key, self.low, self.high, log=self.kind == 'log'):.4g}")
        return min(max(value, self.low), self.high)

    def to_optuna(self, value: Any) -> Value:
        """Convert a value of the setting to Optuna's parameter."""
        return _short(1 - value) if self.kind == "log_complement" else float(value)

    def ends(self) -> tuple[Value, ...]:
        """The extreme values."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether the space contains a value."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Integer(StrictConfig):
    """An integer from low, low + step, … up to high.

    Attributes:
        kind: ``int``.
        low: smallest value.
        high: largest value.
        step: distance between neighboring values.
    """

    kind: Literal["int"]
    low: int
    high: int
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.low >= self.high or (self.high - self.low) % self.step:
            raise ConfigError(f"low = {self.low} to high = {self.high} is not one or more steps of {self.step}")
        return self

    def name(self, key: str) -> str:
        """The name of Optuna's parameter."""
        return key

    def suggest(self, trial: Trial, key: str) -> Value:
        """Let Optuna suggest a value; returns the value of the setting."""
        return trial.suggest_int(key, self.low, self.high, step=self.step)

    def to_optuna(self, value: Any) -> Value:
        """Convert a value of the setting to Optuna's parameter."""
        return int(value)

    def ends(self) -> tuple[Value, ...]:
        """The extreme values."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether the space contains a value."""
        return value in range(self.low, self.high + 1, self.step)


class Choices(StrictConfig):
    """One of several values.

    Attributes:
        kind: ``categorical``.
        values: the values.
    """

    kind: Literal["categorical"]
    values: tuple[Value, ...] = Field(min_length=2)

    def name(self, key: str) -> str:
        """The name of Optuna's parameter."""
        return key

    def suggest(self, trial: Trial, key: str) -> Value:
        """Let Optuna suggest a value; returns the value of the setting."""
        return self.values[self.values.index(trial.suggest_categorical(key, self.values))]

    def to_optuna(self, value: Any) -> Value:
        """Convert a value of the setting to Optuna's parameter."""
        found: Value = value
        return found

    def ends(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether the space contains a value."""
        return value in self.values


Dimension = Number | Integer | Choices
# Keys are dotted configuration keys.
Space = Mapping[str, Dimension]
_KINDS: dict[str, type[Dimension]] = {
    **dict.fromkeys(("float", "log", "log_complement"), Number),
    "int": Integer,
    "categorical": Choices,
}


def read_spaces(spaces: Mapping[str, Any]) -> dict[str, dict[str, Dimension]]:
    """Return the spaces of a sweep: each framework's and the trainer's ``SPACE``, changed by ``spaces``.

    Args:
        spaces: below ``common``, sections of the configuration; below a framework's name, its settings. A null removes
            a key from the space.

    Returns:
        The dimension of each searched key, for ``common`` and for each framework.

    Raises:
        ConfigError: a space names no framework, or a dimension is invalid.
    """
    for name in spaces:
        lookup(name, {COMMON: None, **FRAMEWORKS}, "space in tune.spaces:")
    own = {COMMON: {"trainer": TrainerConfig.SPACE}, **{name: model.SPACE for name, (_, model) in FRAMEWORKS.items()}}
    found = {}
    for name, tree in _merged(own, spaces).items():
        prefix = "" if name == COMMON else f"framework.{name}."
        found[name] = dict(_read(tree, f"tune.spaces.{name}", prefix))
    return found


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``changes`` into ``tree`` section by section; another ``kind`` replaces the whole dimension."""
    merged = dict(tree)
    for key, change in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(change, Mapping):
            kind = before.get("kind")
            merged[key] = _merged(before, change) if change.get("kind", kind) == kind else change
        else:
            merged[key] = change
    return merged


def _read(tree: Any, where: str, prefix: str) -> Iterator[tuple[str, Dimension]]:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"key '{where}' = {tree!r}: a section with the searched keys is needed")
    for key, node in tree.items():
        if node is None:
            continue
        if not isinstance(node, Mapping) or "kind" not in node:
            yield from _read(node, f"{where}.{key}", f"{prefix}{key}.")
            continue
        model = lookup(str(node["kind"]), _KINDS, f"kind in {where}.{key}:")
        try:
            yield f"{prefix}{key}", model.read(node, f"{where}.{key}")
        except ConfigError as error:
            named = f"{where}.{key}" in str(error)
            raise error if named else ConfigError(f"key '{where}.{key}': {error}") from None


def _short(number: float) -> float:
    """Round to 12 significant digits, which removes the rounding error of a subtraction."""
    return float(f"{number:.12g}")
