"""Configuration sections: strict, frozen, and one sentence for every mistake."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Discriminator, Field, ValidationError, model_validator
from tests.fixtures.messages import facts

from avsl.schema import ConfigError, StrictConfig, lookup


class Inner(StrictConfig):
    """A nested section."""

    width: int = Field(4, ge=1, le=8)


class Outer(StrictConfig):
    """A section with a required key, a range, a nested section and a rule over two keys."""

    name: str
    rate: float = Field(0.1, gt=0)
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _rate_fits(self) -> Self:
        if self.name == "slow" and self.rate > 1:
            raise ConfigError("'rate' must not exceed 1 where 'name' is slow")
        return self


@pytest.mark.parametrize(
    ("section", "stated"),
    [
        ({"name": "a", "raet": 1}, "'x.raet' inner name rate"),
        ({"name": "a", "inner": {"hight": 1}}, "'x.inner.hight' width"),
        ({}, "'x.name'"),
        ({"name": "a", "rate": 0}, "'x.rate' 0"),
        ({"name": "a", "inner": {"width": 9}}, "'x.inner.width' 9 8"),
        ({"name": "a", "rate": float("nan")}, "'x.rate' nan"),
        ({"name": "a", "rate": float("inf")}, "'x.rate' inf"),
        ({"name": "slow", "rate": 2}, "'rate' 1 'name' slow"),
    ],
)
def test_a_mistake_is_one_sentence_naming_the_key(section: dict[str, Any], stated: str) -> None:
    """Unknown, missing, out of range, not finite, at any depth: the key and what is allowed."""
    with pytest.raises(ConfigError, match=facts(stated)):
        Outer.read(section, "x")


class Round(StrictConfig):
    """One kind of shape."""

    kind: Literal["round"] = "round"
    radius: float = Field(1.0, gt=0)


class Square(StrictConfig):
    """Another configuration, with a nested section."""

    kind: Literal["square"] = "square"
    side: float = 1.0
    inner: Inner = Inner()


Shape = Annotated[Round | Square, Discriminator("kind")]


class Drawing(StrictConfig):
    """A section of either kind, one that may be left out, and lists of sections."""

    shape: Shape = Round()
    other: Shape | None = None
    drawings: list[Drawing] = Field(default_factory=list)
    extra: Inner | None = None


@pytest.mark.parametrize(
    ("section", "stated"),
    [
        ({"shape": {"kind": "round", "side": 1}}, "'x.shape.side' kind radius"),
        ({"other": {"kind": "square", "radius": 1}}, "'x.other.radius' inner kind side"),
        ({"shape": {"kind": "square", "inner": {"w": 1}}}, "'x.shape.inner.w' width"),
        ({"shape": {"kind": "oval"}}, "'x.shape.kind' 'oval' round square"),
        ({"shape": {"kind": "round", "radius": 0}}, "'x.shape.radius' 0"),
        ({"extra": {"w": 1}}, "'x.extra.w' width"),
        (
            {"drawings": [{}, {"shape": {"kind": "square", "radius": 1}}]},
            "'x.drawings.1.shape.radius' inner kind side",
        ),
        ({"drawings": [{"shpe": {}}]}, "'x.drawings.0.shpe' drawings extra other shape"),
        ({"shape": {"kind": "round", "kinds": {"a": 1}}}, "'x.shape.kinds' kind radius"),
    ],
)
def test_a_mistake_in_one_of_several_kinds_names_the_key_as_written(section: dict[str, Any], stated: str) -> None:
    """The kind is not part of the path, and what is allowed is that kind's; an unknown kind lists the known ones."""
    with pytest.raises(ConfigError, match=facts(stated)):
        Drawing.read(section, "x")


def test_every_mistake_is_named_at_once() -> None:
    """Two mistakes, two sentences; at the top level keys stand without a prefix."""
    with pytest.raises(ConfigError, match=facts("'name' 'rate' -1 0")):
        Outer.read({"rate": -1}, "")


def test_sections_are_frozen_and_their_defaults_checked() -> None:
    """A value cannot be set afterwards, and a default outside its range is refused."""
    section = Outer.read({"name": "a"}, "x")
    with pytest.raises(ValidationError, match="frozen"):
        section.rate = 2.0  # type: ignore[misc]  # what the type checker forbids is forbidden at run time too

    class Wrong(StrictConfig):
        share: float = Field(2.0, le=1)

    with pytest.raises(ConfigError, match=facts("'x.share' 2.0")):
        Wrong.read({}, "x")


def test_a_name_is_looked_up_or_the_known_ones_are_listed() -> None:
    """The registry's entry, or a sentence with what is allowed."""
    assert lookup("b", {"b": 1, "a": 2}, "thing") == 1
    with pytest.raises(ConfigError, match=facts("thing 'c' a b")):
        lookup("c", {"b": 1, "a": 2}, "thing")


def test_the_nearest_name_is_suggested() -> None:
    """Of a key as of a registry's name; nothing where none is near."""
    with pytest.raises(ConfigError, match=facts("x.inner.widht 'width'")):
        Outer.read({"name": "a", "inner": {"widht": 1}}, "x")
    with pytest.raises(ConfigError, match=facts("'slavk' ezvsl slavc 'slavc'")):
        lookup("slavk", {"ezvsl": 1, "slavc": 2}, "objective")
