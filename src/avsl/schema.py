"""Base of every configuration model: strict, immutable, with errors that name the key and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence naming the key."""


class StrictConfig(BaseModel):
    """A configuration section: unknown keys are refused, values are range-checked, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def read(cls, section: Mapping[str, Any], where: str) -> Self:
        """Validate ``section``.

        Args:
            section: plain keys and values.
            where: dotted path of the section, used in the error (``framework.dmt``).

        Raises:
            ConfigError: a key is unknown or a value is out of range; names the key and what is allowed.
        """
        try:
            return cls.model_validate(dict(section))
        except ValidationError as error:
            raise ConfigError("; ".join(_sentences(cls, error, where))) from None


def _sentences(cls: type[BaseModel], error: ValidationError, where: str) -> list[str]:
    sentences = []
    for problem in error.errors():
        path = ".".join([where, *map(str, problem["loc"])]).strip(".")
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            sentences.append(str(cause))
        elif problem["type"] == "extra_forbidden":
            model: type[BaseModel] = cls
            for step in problem["loc"][:-1]:
                annotation = model.model_fields[str(step)].annotation if str(step) in model.model_fields else None
                if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                    model = annotation
            sentences.append(f"unknown key '{path}': allowed are {', '.join(sorted(model.model_fields))}")
        elif problem["type"] == "missing":
            sentences.append(f"key '{path}' is required")
        else:
            sentences.append(f"key '{path}' = {problem['input']!r}: {problem['msg'].lower()}")
    return sentences


def pick(name: str, registry: Mapping[str, Any], what: str) -> Any:
    """Look ``name`` up in ``registry``.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    if name not in registry:
        raise ConfigError(f"unknown {what} '{name}': allowed are {', '.join(sorted(registry))}")
    return registry[name]
