"""The recording of a sample, recognized by the sample's name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from avsl.errors import DataError

# The name of a VGGSound clip is its video's id and its start in seconds.
_SECONDS = re.compile(r"(?P<recording>.{11})_\d{6}")
_SPAN = re.compile(r"(?P<recording>.+)_(?P<start>\d+(?:\.\d+)?)_(?P<end>\d+(?:\.\d+)?)")
# Names of cameras end in a date and a time of day, and are excluded.
_NUMBERED = re.compile(r"(?P<recording>.+)(?<!\d{8})[_-]\d{3,6}")
# Numbers with a larger difference, even in milliseconds, are not the start and end of a clip.
_LONGEST_SPAN = 3_600_000


def source_of(sample_id: str) -> str:
    """The video of a VGGSound clip; the id itself for any other id."""
    match = _SECONDS.fullmatch(sample_id)
    return match["recording"] if match else sample_id


class Recordings:
    """Maps the names of samples to their recordings.

    Without a pattern three common forms are recognized: ``ID_SSSSSS`` with an id of 11 characters (VGGSound),
    ``ID_START_END`` in seconds or milliseconds, and ``NAME_NNNN`` with 3 to 6 digits, the number of a frame. In the
    last form, if NAME is a class or the only one in its folder, each clip is a separate recording.

    Args:
        names: names of all samples; iterated once.
        pattern: regular expression of a whole name whose group is the recording; empty: the common forms.
        classes: names of classes.

    Raises:
        DataError: no name matches the pattern.
    """

    def __init__(self, names: Iterable[str], pattern: str = "", classes: Collection[str] = ()) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._classes = set(classes)
        self._series: set[str] = set()
        if self._pattern:
            if not any(self._pattern.fullmatch(name) for name in names):
                raise DataError(f"recording_pattern = '{pattern}' matches no name")
            return
        by_folder: dict[str, set[str]] = {}
        for name in names:
            if match := _NUMBERED.fullmatch(name):
                by_folder.setdefault(name.rpartition("/")[0], set()).add(match["recording"])
        for numbered in by_folder.values():
            if len(numbered) == 1:
                self._series |= numbered

    def __call__(self, name: str) -> str:
        """The recording of a sample."""
        return self.match(name)[0]

    def match(self, name: str) -> tuple[str, str]:
        """The recording of a sample and the form of its name; the name itself and '' if no form matches."""
        if self._pattern:
            found = self._pattern.fullmatch(name)
            return (found.group(1) or name, self._pattern.pattern) if found else (name, "")
        if found := _SECONDS.fullmatch(name):
            return found["recording"], "ID_SSSSSS"
        if (found := _SPAN.fullmatch(name)) and 0 < float(found["end"]) - float(found["start"]) <= _LONGEST_SPAN:
            return found["recording"], "ID_START_END"
        if (found := _NUMBERED.fullmatch(name)) and not self._unrelated(found["recording"]):
            return found["recording"], "NAME_NNNN"
        return name, ""

    def _unrelated(self, numbered: str) -> bool:
        return numbered in self._series or numbered.rpartition("/")[2] in self._classes


def count_recordings(clips: Iterable[tuple[str, str]]) -> str:
    """A summary of clips, given the recording of each and the form of its name ('' if none matches)."""
    forms: Counter[str] = Counter()
    recordings = set()
    for recording, form in clips:
        recordings.add(recording)
        forms[form] += 1
    known = ", ".join(f"{n:,} by {form}" for form, n in sorted(forms.items()) if form)
    if not known:
        return f"{forms.total():,} clips, each its own recording"
    return f"{forms.total():,} clips of {len(recordings):,} recordings ({known})"
