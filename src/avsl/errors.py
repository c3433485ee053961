"""Errors that a user can correct: each message is one sentence that names the file, key or value."""

from __future__ import annotations

import re
from pathlib import Path

# Control characters, and the surrogates that stand for bytes that are not UTF-8.
_NO_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class AvslError(ValueError):
    """Invalid input; the message is one sentence that names the file, key or value."""


class DataError(AvslError):
    """Invalid or unusable data or media."""


def check_name(path: Path) -> None:
    """Refuse a file name that lists, tables, logs and DVC files cannot hold.

    Raises:
        DataError: the name is not UTF-8 or holds a control character; the message shows it with escapes.
    """
    if _NO_LINE.search(str(path)):
        raise DataError(f"{str(path)!r}: the name is not UTF-8 or holds a control character")
