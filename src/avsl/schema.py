"""Base of every configuration model: strict, immutable, with errors that name the key and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from avsl.errors import AvslError


class ConfigError(AvslError):
    """An invalid configuration; the message is one sentence that names the key."""


def _whole_or_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a number of steps, from 1 on, must be whole; below 1 the value is a share of the training")
    return value


# A number of optimizer steps, or, below 1, a share of the training's steps, which `in_steps` resolves.
_STEPS = AfterValidator(_whole_or_share)
Steps = Annotated[int | float, Field(ge=0), _STEPS]


class StrictConfig(BaseModel):
    """A configuration section: unknown keys are refused, values are range-checked, instances are frozen.

    Attributes:
        LINKS: default values taken from other sections, by field, in OmegaConf's notation.
        SPACE: a sweep's search space by field, see `avsl.tuning.space`.
    """

    LINKS: ClassVar[Mapping[str, str]] = {}
    SPACE: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def in_steps(self, total: int) -> Self:
        """Replace each share of the training by the number of steps out of ``total``."""
        changed: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, StrictConfig):
                changed[name] = value.in_steps(total)
            elif (
                any(isinstance(m, AfterValidator) and m.func is _whole_or_share for m in field.metadata)
                and 0 < value < 1
            ):
                changed[name] = max(1, round(value * total))
        return self.model_copy(update=changed)

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
        keys, model = _locate(cls, problem["loc"])
        path = ".".join([where, *keys]).strip(".")
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            sentences.append(str(cause))
        elif problem["type"] == "extra_forbidden":
            sentences.append(f"unknown key '{path}': {allowed(keys[-1], model.model_fields)}")
        elif problem["type"] == "union_tag_invalid":
            context = problem["ctx"]
            key, kinds = (context[name].replace("'", "") for name in ("discriminator", "expected_tags"))
            sentences.append(f"key '{path}.{key}' = '{context['tag']}': allowed are {kinds}")
        elif problem["type"] == "missing":
            sentences.append(f"key '{path}' is required")
        else:
            sentences.append(f"key '{path}' = {problem['input']!r}: {problem['msg'].lower()}")
    return sentences


def _locate(cls: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], type[BaseModel]]:
    """The keys of an invalid value, and the section that holds it.

    For a section of several kinds, pydantic's location has the kind after the section's key.
    """
    keys: list[str] = []
    model, kinds = cls, [cls]
    for step in location:
        if len(kinds) > 1 and isinstance(step, str):
            kinds = [kind for kind in kinds if _is_kind(kind, step)]
            continue
        keys.append(str(step))
        if isinstance(step, str):
            model = kinds[0] if kinds else model
            kinds = _sections(model.model_fields[step].annotation) if step in model.model_fields else []
    return keys, model


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The section models in a field's type, through ``|``, lists and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _sections(part)]


def _is_kind(model: type[BaseModel], kind: str) -> bool:
    """Whether ``kind`` is the only allowed value of one of the section's keys."""
    annotations = [field.annotation for field in model.model_fields.values()]
    return any(get_origin(annotation) is Literal and get_args(annotation) == (kind,) for annotation in annotations)


def lookup(name: str, registry: Mapping[str, Any], what: str) -> Any:
    """Look ``name`` up in ``registry``.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones and the nearest of them.
    """
    if name not in registry:
        raise ConfigError(f"unknown {what} '{name}': {allowed(name, registry)}")
    return registry[name]


def allowed(name: str, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: the known names, and the most similar one."""
    known = sorted(names)
    nearest = get_close_matches(name, known, n=1)
    return f"allowed are {', '.join(known)}" + (f"; did you mean '{nearest[0]}'?" if nearest else "")
