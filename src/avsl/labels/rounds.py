"""The rounds of labeling: small text files in ``labels/`` that say which clips were chosen, when and why."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from avsl.data.datasets.folder import FolderConfig
from avsl.errors import DataError
from avsl.files import write_json, write_text

TEST = "test.csv"
PARTS = "parts.json"
# Settings that determine the part of a recording.
_DECISIVE = ("seed", "test_share", "validation_share", "recording_pattern")


@dataclass(frozen=True)
class Suggestion:
    """A clip to annotate.

    Attributes:
        id: the clip.
        recording: that it was cut from.
        time_s: of its frame, in seconds; empty for a picture.
        part: ``train``, ``validation`` or ``test``.
        strategy: that chose it.
        why: a few words.
        score: the strategy's, as it defines it.
    """

    id: str
    recording: str
    time_s: str
    part: str
    strategy: str
    why: str
    score: str


_COLUMNS = tuple(field.name for field in fields(Suggestion))


class Rounds:
    """The files of a ``labels`` folder: ``test.csv``, ``parts.json``, and ``round-01.csv`` and its successors.

    Args:
        folder: made where a file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def last(self) -> int:
        """The number of the last round; 0 before the first."""
        numbers = [int(path.stem.removeprefix("round-")) for path in self.folder.glob("round-[0-9][0-9].csv")]
        return max(numbers, default=0)

    def path(self, number: int) -> Path:
        """Return the path of a round's file."""
        return self.folder / f"round-{number:02d}.csv"

    def test(self) -> list[Suggestion]:
        """The clips of the test part; none before the first round."""
        return self._read(self.folder / TEST)

    def chosen(self) -> dict[str, Suggestion]:
        """Every clip of the test part and of all rounds, by its name."""
        paths = [self.folder / TEST, *(self.path(number) for number in range(1, self.last + 1))]
        return {row.id: row for path in paths for row in self._read(path)}

    def _read(self, path: Path) -> list[Suggestion]:
        return [Suggestion(*row) for row in read_rows(path, _COLUMNS)]

    def write(self, path: Path, rows: Iterable[Suggestion]) -> None:
        """Write a list of suggestions atomically."""
        write_table(path, _COLUMNS, (astuple(row) for row in rows))

    def check_parts(self, settings: FolderConfig) -> None:
        """Compare the settings that determine the parts with those that the first round recorded.

        Raises:
            DataError: a value differs, so that clips would change sides.
        """
        path = self.folder / PARTS
        if not path.is_file():
            return
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from None
        for key, value in _decisive(settings).items():
            if before.get(key) != value:
                raise DataError(
                    f"{path}: the parts were drawn with data.folder.{key} = {before.get(key)!r}, now it is {value!r}: "
                    "clips would change sides; set it back, or begin in another folder with --labels"
                )

    def write_parts(self, settings: FolderConfig) -> None:
        """Record the settings that determine the parts."""
        write_json(self.folder / PARTS, _decisive(settings))


def _decisive(settings: FolderConfig) -> dict[str, object]:
    return {key: getattr(settings, key) for key in _DECISIVE}


def read_rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read the rows of a CSV that `write_table` wrote; none if the file does not exist.

    Raises:
        DataError: its columns are others, or it is no CSV.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file: {error}") from None
    if not rows or rows[0] != list(columns) or any(len(row) != len(columns) for row in rows):
        raise DataError(f"{path}: its columns are not {','.join(columns)}")
    return rows[1:]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV atomically."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
