"""Reads JSON and XML that a tool has exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from pydantic import BaseModel, ValidationError

from avsl.errors import DataError

_Model = TypeVar("_Model", bound=BaseModel)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def read_model(path: Path, model: type[_Model], content: Any, where: str) -> _Model:
    """Validate part of a JSON file.

    Raises:
        DataError: the content does not fit the model; names the place and the key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}{f', {keys}' if keys else ''}: {first['msg'].lower()}") from None


def read_xml(path: Path) -> ElementTree.Element:
    """Read the root of an XML file.

    Raises:
        DataError: the file is not well-formed, or declares a document type, whose entities could expand without bound.
    """
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: declares a document type, which an export does not need")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not well-formed XML: {error}") from None
