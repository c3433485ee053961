"""What is said about data that cannot be used."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Data or media that cannot be used; the message is one sentence naming the file, key or value."""


def check_name(path: Path) -> None:
    """Refuse a file name that is no text: it could stand in no list, table, log or DVC file.

    Raises:
        DataError: the name is not UTF-8; it is said with escapes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(path).encode(errors='backslashreplace').decode()}: the name is not UTF-8") from None
