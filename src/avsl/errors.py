"""The errors a person can mend: one sentence that names the file, key or value."""

from __future__ import annotations

import re
from pathlib import Path

# Control characters, and what stands for bytes that are no UTF-8.
_NO_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class AvslError(ValueError):
    """A mistake in the input; the message is one sentence naming the file, key or value."""


class DataError(AvslError):
    """Data or media that cannot be used."""


def check_name(path: Path) -> None:
    """Refuse a file name that is no line of text: it could stand in no list, table, log or DVC file.

    Raises:
        DataError: the name is not UTF-8 or holds a control character; it is said with escapes.
    """
    if _NO_LINE.search(str(path)):
        raise DataError(f"{str(path)!r}: the name is not UTF-8 or holds a control character")
